"""``sfvm shell`` and ``run``: inside a throw-away copy of a node."""

from __future__ import annotations

import shlex

import click

from sfvm.cli.options import Command, Options, complete_built, pass_options, resolve
from sfvm.cli.progress import Plain


def _visit(options: Options, node: str, failed: bool, command: str | None) -> int:
    import sys

    from sfvm.build import visit

    settings, repository = options.settings(), options.open()
    listener = Plain(sys.stderr, verbose=options.verbose, only_notices=options.quiet)
    if failed:
        return visit.visit_failed(resolve(options, [node])[-1], repository, settings, listener, command)
    return visit.visit(repository.resolve(node), repository, settings, listener, command)


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.option("--failed", is_flag=True, help="The state in which NODE's last step failed.")
@pass_options
def shell(options: Options, node: str, failed: bool) -> int:
    """Open a terminal in a throw-away copy of NODE.

    Nothing done there is kept.

    \b
    Examples:
      sfvm shell web
      sfvm shell web --failed
    """
    return _visit(options, node, failed, None)


@click.command(cls=Command, context_settings={"allow_interspersed_args": False})
@click.argument("node", shell_complete=complete_built)
@click.argument("command", nargs=-1, required=True, metavar="-- COMMAND...", type=click.UNPROCESSED)
@pass_options
def run(options: Options, node: str, command: tuple[str, ...]) -> int:
    """Run COMMAND in a throw-away copy of NODE.

    The exit status is that of COMMAND; a COMMAND of one word is a shell command line.

    \b
    Examples:
      sfvm run web -- cat /etc/motd
      sfvm run web -- 'ls /etc | wc -l'
    """
    if command[0] == "--":
        command = command[1:]
    if not command:
        raise click.UsageError("a COMMAND is missing")
    return _visit(options, node, False, command[0] if len(command) == 1 else shlex.join(command))
