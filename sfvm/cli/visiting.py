"""``sfvm shell`` and ``run``: inside a throw-away copy of a node."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from sfvm.cli.options import Command, Options, complete_built, network_options, pass_options, resolve
from sfvm.cli.output import style
from sfvm.errors import SfvmError

if TYPE_CHECKING:
    from sfvm.repository import Repository


def _visit(options: Options, node: str, failed: bool, command: str | None, allow_hosts: tuple[str, ...]) -> int:
    from sfvm.build import visit
    from sfvm.cli.progress import Plain

    settings, repository = options.settings(allow_hosts=allow_hosts), options.open()
    key, facts = _failed(options, node, repository) if failed else (repository.resolve(node), {})
    if sys.stderr.isatty() and not options.quiet:
        click.echo(
            style(f"starting an appliance with a throw-away copy of {node} …", stream=sys.stderr, dim=True), err=True
        )
    listener = Plain(sys.stderr, verbose=options.verbose, only_notices=options.quiet)
    if failed:
        return visit.visit_failed(key, node, facts, repository, settings, listener, command)
    return visit.visit(key, repository, settings, listener, command)


def _failed(options: Options, node: str, repository: Repository) -> tuple[str, Mapping[str, str]]:
    """The key of the failed build of *node* as its spec is now, or else of the last one that failed: of one with other
    arguments, or from its lock. And the facts that the spec tells.

    :raises SfvmError: none has failed, and the spec is missing or wrong
    """
    failed = [work.key for work in repository.unfinished(node) if work.failed]
    try:
        wanted = resolve(options, [node])[-1]
    except SfvmError:
        if not failed:
            raise
        return failed[0], {}
    return wanted.key if wanted.key in failed or not failed else failed[0], wanted.definition.facts


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.option("--failed", is_flag=True, help="The state in which NODE's last step failed.")
@network_options
@pass_options
def shell(options: Options, node: str, failed: bool, allow_hosts: tuple[str, ...]) -> int:
    """Open a terminal in a throw-away copy of NODE.

    Nothing done there is kept. There is network, through the proxy that the environment names. With --failed it is the
    failed build of the spec as it is now, or else the last one, whatever its params were.

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
