"""``sfvm publish``: bundles become images of a platform."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sfvm.cli.options import Command, Group, Options, pass_options
from sfvm.cli.output import write_json

DIRECTORY = click.argument("directory", metavar="BUNDLE", type=click.Path(exists=True, file_okay=False, path_type=Path))
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group(cls=Group)
def publish() -> None:
    """Put a bundle on a platform: upload it, and register it there.

    \b
    Examples:
      sfvm publish ami out/debian-ami --region eu-central-1
      sfvm publish libvirt out/debian-libvirt --connect qemu:///session
    """


@publish.command(cls=Command)
@DIRECTORY
@click.option("--region", metavar="REGION", help="Amazon's region. [as boto3 finds it]")
@click.option("--profile", metavar="NAME", help="A profile of ~/.aws/config. [as boto3 finds it]")
@click.option("--endpoint-url", "endpoint", metavar="URL", help="Where the API is, if not at Amazon.")
@click.option("--name", metavar="NAME", help="What the AMI is called. [as in register-image.json]")
@JSON
@pass_options
def ami(
    options: Options,
    directory: Path,
    region: str | None,
    profile: str | None,
    endpoint: str | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Make an AMI of BUNDLE, a directory that was made in the format ami.

    The disk is uploaded into an EBS snapshot, and registered; the AMI's identifier is printed. What was interrupted
    goes on where it was: how far it is stands in a file beside BUNDLE. Credentials are found as boto3 finds them.

    \b
    Examples:
      sfvm publish ami out/debian-ami --region eu-central-1
      sfvm publish ami out/debian-ami --profile test --json | jq -r .image
    """
    from sfvm.cli.progress import shown
    from sfvm.publish.amazon import connect
    from sfvm.publish.ami import publish as run
    from sfvm.publish.bundle import opened

    bundle = opened(directory)
    amazon = connect(region, endpoint, profile)
    with shown(options) as progress:
        made = run(bundle, amazon, name, progress.listener)
    _say(made, made.image, as_json)


@publish.command(cls=Command)
@DIRECTORY
@click.option("--connect", "uri", metavar="URI", required=True, help="The libvirt connection, as virsh has it.")
@click.option("--pool", metavar="POOL", default="default", show_default=True, help="The storage pool.")
@click.option("--name", metavar="NAME", help="What domain and volume are called. [as the node]")
@JSON
@pass_options
def libvirt(options: Options, directory: Path, uri: str, pool: str, name: str | None, as_json: bool) -> None:
    """Define a domain from BUNDLE, a directory that was made in the format libvirt.

    The image is uploaded into a storage pool over the connection; the domain's name is printed. If anything fails,
    nothing of it stays.

    \b
    Examples:
      sfvm publish libvirt out/debian-libvirt --connect qemu:///session
      sfvm publish libvirt out/web-libvirt --connect qemu+ssh://root@farm/system --pool images --name web2
    """
    from sfvm.cli.progress import shown
    from sfvm.publish.bundle import opened
    from sfvm.publish.libvirt import publish as run

    bundle = opened(directory)
    with shown(options) as progress:
        made = run(bundle, uri, pool, name, progress.listener)
    _say(made, made.domain, as_json)


def _say(made: Any, text: str, as_json: bool) -> None:
    if as_json:
        write_json(asdict(made))
    else:
        click.echo(text)
