"""``sfvm rm``, ``gc``, ``verify``, ``export``, ``import``: care of the repository."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import click

from sfvm.cli.options import Command, Options, complete_built, pass_options
from sfvm.cli.output import plain, plural, size, style, write_json


@click.command(cls=Command)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_built)
@pass_options
def rm(options: Options, names: tuple[str, ...]) -> None:
    """Forget the names of nodes.

    `sfvm gc` then frees what nothing needs any more.

    \b
    Example:
      sfvm rm web && sfvm gc
    """
    repository = options.open()
    for name in dict.fromkeys(names):
        repository.remove(name)


@click.command(cls=Command)
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def gc(options: Options, dry_run: bool, as_json: bool) -> None:
    """Remove what no name, no descendant and no running build needs.

    Saved helper VMs that were not used for a week go too.

    \b
    Examples:
      sfvm gc --dry-run
      sfvm gc
      sfvm gc --dry-run --json | jq .bytes
    """
    from sfvm.appliance.warm import UNUSED, Store

    removed = options.open().gc(dry_run=dry_run)
    states = Store(options.settings().saved_appliances).collect(unused=UNUSED, dry_run=dry_run)
    if as_json:
        nodes = [{"key": key, "name": name or None} for key, name in removed.nodes]
        told = {"nodes": nodes, "work": removed.work, "files": removed.files, "bytes": removed.bytes}
        write_json({"removed": not dry_run, **told, "saved_appliances": states})
        return
    if not options.quiet:
        for key, name in removed.nodes:
            click.echo(f"{key[:12]}  {name}".rstrip())
        for name in removed.work:
            click.echo(f"{name}  an unfinished build")
    verb = "would free" if dry_run else "freed"
    counted = f"{plural(len(removed.nodes), 'node')}, {plural(len(removed.work), 'unfinished build')}"
    saved = f", saved appliances {size(states)}" if states else ""
    click.echo(f"{verb} {size(removed.bytes + states)}: {counted}, {plural(removed.files, 'file')}{saved}", err=True)


@click.command(cls=Command)
@click.option("--repair", is_flag=True, help="Set damaged nodes aside, so that a build makes them anew.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def verify(options: Options, repair: bool, as_json: bool) -> int:
    """Check every node: its bytes, chain and manifest.

    Exit 1 when something is wrong.

    \b
    Examples:
      sfvm verify
      sfvm verify --repair && sfvm build web
      sfvm verify --json | jq -r '.[] | select(.serious) | .node'
    """
    with _watched(options) as progress:
        problems = options.open().verify(repair=repair, progress=progress)
    wrong = [problem for problem in problems if problem.serious and not problem.repaired]
    if as_json:
        write_json([asdict(problem) for problem in problems])
        return 1 if wrong else 0
    for problem in problems:
        text = str(problem) if problem.serious else f"{problem} (harmless: a later command cleans it up)"
        click.echo(style(plain(text), fg="red" if problem.serious else None, dim=not problem.serious))
    if wrong and not repair:
        click.echo("try: sfvm verify --repair, then build again what was set aside", err=True)
    elif not wrong and not options.quiet:
        click.echo("everything is sound", err=True)
    return 1 if wrong else 0


@contextmanager
def _watched(options: Options) -> Iterator[Callable[[str, float], None]]:
    """What shows progress (what is looked at, 0 to 1) on a terminal, and nothing elsewhere."""
    if options.quiet or not sys.stderr.isatty():
        yield lambda what, fraction: None
        return
    from sfvm.cli.progress import shown
    from sfvm.events import Preparing

    with shown(options) as progress:

        def tell(_what: str, fraction: float) -> None:
            progress.listener(Preparing("verifying", fraction, done=fraction >= 1))

        yield tell


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_options
def export(options: Options, node: str, file: Path) -> None:
    """Write NODE and all its ancestors into one FILE.

    `sfvm import` takes it in elsewhere.

    \b
    Example:
      sfvm export web web.sfvm
    """
    repository = options.open()
    repository.export(repository.resolve(node), file)
    if not options.quiet:
        click.echo(f"{file}: {size(file.stat().st_size)}", err=True)


@click.command("import", cls=Command)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@pass_options
def import_(options: Options, file: Path) -> None:
    """Take in the nodes of an exported FILE.

    Each one is verified; their names are printed.

    \b
    Example:
      sfvm import web.sfvm
    """
    for name in options.open().import_(file):
        click.echo(name)
