"""``sfvm formats`` and ``sfvm format``: what nodes can be bundled for."""

from __future__ import annotations

import click

from sfvm.cli.options import Command, Group, complete_format, describe_param, params_json, read_all
from sfvm.cli.output import columns, style, write_json


@click.group("format", cls=Group)
def format_() -> None:
    """List and show the formats for bundles.

    \b
    Examples:
      sfvm format list
      sfvm format show qcow2
    """


@format_.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def format_list(as_json: bool) -> None:
    """List the formats that can be named: the same as `sfvm formats`.

    \b
    Example:
      sfvm format list
    """
    _list(as_json)


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def formats(as_json: bool) -> None:
    """List the formats that nodes can be bundled in.

    \b
    Examples:
      sfvm formats
      sfvm formats --json | jq -r .[].name
    """
    _list(as_json)


def _list(as_json: bool) -> None:
    from sfvm.bundle.format import Formats

    found, problems = read_all(Formats())
    if as_json:
        write_json(
            [
                {
                    "name": f.name,
                    "summary": f.summary,
                    "produces": f.produces,
                    "path": str(f.path),
                    "params": params_json(f.params),
                }
                for f in found
            ]
        )
        return
    rows = [(style(f.name, bold=True), f.produces, f.summary) for f in found]
    rows += [(style(name, fg="red"), "(invalid)", str(error.what)) for name, error in problems]
    for line in columns(rows):
        click.echo(line)


@format_.command("show")
@click.argument("name", shell_complete=complete_format)
def format_show(name: str) -> None:
    """Print a format's spec, with its params.

    \b
    Example:
      sfvm format show qcow2
    """
    from sfvm.bundle.format import Formats

    found = Formats().get(name)
    click.echo(f"{style(found.name, bold=True)}  {found.summary}  ({found.path})")
    for line in columns([describe_param(param) for param in found.params]):
        click.echo("  " + line)
    click.echo(found.path.read_bytes(), nl=False)  # as it is: XML may be in any encoding
