"""``sfvm shell`` and ``run``: inside a throw-away copy of a node."""

from __future__ import annotations

import shlex
import sys

import click

from sfvm.cli.options import Command, Options, complete_built, network_options, pass_options, resolve
from sfvm.cli.output import style


def _visit(options: Options, node: str, failed: bool, command: str | None, allow_hosts: tuple[str, ...]) -> int:
    from sfvm.build import visit
    from sfvm.cli.progress import Plain

    settings, repository = options.settings(allow_hosts=allow_hosts), options.open()
    wanted = resolve(options, [node])[-1] if failed else None
    key = repository.resolve(node) if wanted is None else wanted.key
    if sys.stderr.isatty() and not options.quiet:
        click.echo(
            style(f"starting an appliance with a throw-away copy of {node} …", stream=sys.stderr, dim=True), err=True
        )
    listener = Plain(sys.stderr, verbose=options.verbose, only_notices=options.quiet)
    if wanted is not None:
        return visit.visit_failed(wanted, repository, settings, listener, command)
    return visit.visit(key, repository, settings, listener, command)


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.option("--failed", is_flag=True, help="The state in which NODE's last step failed.")
@network_options
@pass_options
def shell(options: Options, node: str, failed: bool, allow_hosts: tuple[str, ...]) -> int:
    """Open a terminal in a throw-away copy of NODE.

    Nothing done there is kept. There is network, through the proxy that the environment names.

    \b
    Examples:
      sfvm shell web
      sfvm shell web --failed
    """
    return _visit(options, node, failed, None, allow_hosts)


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...", type=click.UNPROCESSED)
@network_options
@pass_options
def run(options: Options, node: str, command: tuple[str, ...], allow_hosts: tuple[str, ...]) -> int:
    """Run COMMAND in a throw-away copy of NODE.

    The exit status is that of COMMAND; a COMMAND of one word is a shell command line. What follows -- is never an
    option of sfvm.

    \b
    Examples:
      sfvm run web -- cat /etc/motd
      sfvm run web -- 'ls /etc | wc -l'
    """
    return _visit(options, node, False, command[0] if len(command) == 1 else shlex.join(command), allow_hosts)
