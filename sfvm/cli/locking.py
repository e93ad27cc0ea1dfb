"""``sfvm lock``, ``update`` and ``refresh``: what nodes are made from, kept and renewed on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sfvm.cli.building import progress_options
from sfvm.cli.options import (
    Command,
    Options,
    complete_node,
    network_options,
    param_option,
    pass_options,
    pins,
    require,
    resolve,
)
from sfvm.cli.output import plural, style, write_json
from sfvm.errors import UsageError

if TYPE_CHECKING:
    from sfvm.events import Started
    from sfvm.lock.model import Lock
    from sfvm.spec.library import Library
    from sfvm.tree import Node


def wanted(
    options: Options,
    names: Sequence[str],
    arguments: Mapping[str, str],
    *,
    locked: bool,
    locks: Path | None = None,
    keep: bool = False,
) -> tuple[Node, ...]:
    """The nodes *names* and their ancestors, parents first; as their locks (in the directory *locks*, or beside the
    specs) want them when *locked*. With *keep*, gc keeps what these name from now on.

    :raises SfvmError: a node has no lock, or one that does not fit it
    """
    if not locked:
        if locks is not None:
            raise UsageError("--locks says nothing without --locked")
        return resolve(options, names, arguments)
    from sfvm.lock.resolve import resolve as resolve_locked

    library, repository = options.library(), options.open()
    require(library, names)
    nodes, found = resolve_locked(
        library, names, arguments, pins(options), repository, lambda name: _path(library, name, locks)
    )
    if keep:
        repository.make()
        for name, lock in found.items():
            _keep(repository.root, name, _path(library, name, locks), lock)
    return nodes


def _keep(root: Path, name: str, path: Path, lock: Lock) -> None:
    from sfvm.repository.kept import Kept

    Kept(root).set(name, path, lock.digests)


def _path(library: Library, name: str, directory: Path | None) -> Path:
    from sfvm.config import data
    from sfvm.lock.files import path_of

    return path_of(library.files[name], data("specs"), directory)


@click.command(cls=Command)
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=complete_node)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where lock files go. [beside the specs; the current directory for shipped ones]",
)
@param_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@network_options
@progress_options
@pass_options
def lock(
    options: Options,
    nodes: tuple[str, ...],
    output: Path | None,
    arguments: dict[str, str],
    as_json: bool,
    allow_hosts: tuple[str, ...],
    log: str,
    events: Path | None,
    profile: Path | None,
) -> None:
    """Write down what NODEs are made from: NODE.lock.xml.

    It names everything that was downloaded for a node and its ancestors, with its sha256: metadata of repositories,
    packages, files. What is not built yet is built first. `sfvm build --locked` uses exactly that again, and
    `sfvm gc` keeps it in the download cache as long as the name of the node is there. The files are printed.

    \b
    Examples:
      sfvm lock debian
      sfvm lock web db --output locks/
    """
    from sfvm import tree
    from sfvm.cli.progress import started
    from sfvm.lock.files import write
    from sfvm.lock.model import make

    begun = started()
    names = tuple(dict.fromkeys(nodes))
    library, repository = options.library(), options.open()
    found = {node.name: node for node in resolve(options, names, arguments)}
    chains = tuple(found.values())
    _build(options, chains, names, arguments, allow_hosts, begun, log=log, events=events, profile=profile)
    plain = {node.name: node for node in tree.resolve(library, names, arguments)}
    written: list[dict[str, str | int]] = []
    for name in names:
        chain = plain[name].chain
        made = make(chain, {node.name: repository.manifest(found[node.name].key) for node in chain})
        path = _path(library, name, output)
        write(made, path)
        _keep(repository.root, name, path, made)
        packages = sum(len(section.packages) for section in made.sections)
        files = sum(len(section.files) for section in made.sections)
        written.append({"node": name, "path": str(path), "nodes": len(chain), "packages": packages, "files": files})
        if not options.quiet:
            click.echo(
                f"{plural(len(chain), 'node')}, {plural(packages, 'package')}, {plural(files, 'other file')}", err=True
            )
        if not as_json:
            click.echo(str(path))
    if as_json:
        write_json(written)


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_node)
@click.option("--write", "writing", is_flag=True, help="Write the new lock, and let NODE stand for the new build.")
@click.option(
    "--locks",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the lock file is. [beside the spec]",
)
@param_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@network_options
@progress_options
@pass_options
def update(
    options: Options,
    node: str,
    writing: bool,
    locks: Path | None,
    arguments: dict[str, str],
    as_json: bool,
    allow_hosts: tuple[str, ...],
    log: str,
    events: Path | None,
    profile: Path | None,
) -> None:
    """Show what a new lock of NODE would change.

    NODE and its ancestors are built anew from what the repositories have now, as a trial: no name stands for that
    build. Shown are packages that are added (+), removed (-), and of another version. With --write the trial that was
    shown last is taken, if it is still there: the lock is written, the names stand for it, and the other descendants
    of its ancestors are to be built again.

    \b
    Examples:
      sfvm update debian
      sfvm update debian --write
    """
    from dataclasses import asdict

    from sfvm import tree
    from sfvm.cli.progress import started
    from sfvm.lock.changes import changes
    from sfvm.lock.files import read, write
    from sfvm.lock.model import TwoContents, make
    from sfvm.lock.trial import prepare

    begun = started()
    library, repository = options.library(), options.open()
    require(library, [node])
    path = _path(library, node, locks)
    before = read(path, node)
    plain = tree.resolve(library, [node], arguments)
    trial = prepare(library, plain, arguments, before, pins(options), repository, accepted=writing)
    _build(options, trial.nodes, [node], arguments, allow_hosts, begun, log=log, events=events, profile=profile)
    try:
        after = make(plain, {one.name: repository.manifest(one.key) for one in trial.nodes})
    except TwoContents as error:
        trial.forget(repository)  # built already, it would be taken again, for ever
        error.hint = f"sfvm update {node}, again: there is a new trial"
        raise
    found = changes(before, after)
    if writing:  # first the lock: until the end, the same command goes on with the same trial
        write(after, path)
        _keep(repository.root, node, path, after)
        trial.accept(repository)
    if as_json:
        write_json([asdict(change) for change in found])
        return
    for name, group in groupby(found, key=lambda change: change.node):
        click.echo(style(name, bold=True))
        for change in group:
            click.echo(f"  {change}")
    if not found and not options.quiet:
        click.echo("the lock is up to date", err=True)


def _build(
    options: Options,
    nodes: Sequence[Node],
    names: Sequence[str],
    arguments: Mapping[str, str],
    allow_hosts: Sequence[str],
    begun: Started,
    *,
    log: str,
    events: Path | None,
    profile: Path | None,
) -> None:
    """Build *names* of *nodes*, if anything is to be built."""
    from sfvm import tree
    from sfvm.build import build as run
    from sfvm.cli.progress import shown
    from sfvm.downloads.policy import Policy

    repository, settings = options.open(), options.settings(allow_hosts=allow_hosts)
    policy = Policy.of(settings, arguments.values())
    todo = tree.plan(nodes, names, repository)
    if todo.chains:
        with shown(options, begun, log=log, file=events, trace=profile) as progress:
            run(todo, repository, settings, progress.listener, policy=lambda node: policy)


@click.command(cls=Command)
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=complete_node)
@click.option("--undo", is_flag=True, help="Forget the refresh: what was built before counts again.")
@pass_options
def refresh(options: Options, nodes: tuple[str, ...], undo: bool) -> None:
    """Let NODEs be built anew from what the repositories have now.

    Nothing else of a node changes when a mirror does, so it is not built again by itself. The moment of the refresh
    is an input of its key from now on: the next build makes it and its descendants anew. `sfvm tree --outdated` tells
    which nodes need it.

    \b
    Examples:
      sfvm refresh debian && sfvm build web
      sfvm refresh debian --undo
    """
    from sfvm.cli.survey import resolve_all
    from sfvm.repository import stamps

    library, repository = options.library(), options.open()
    names = tuple(dict.fromkeys(nodes))
    require(library, names)
    repository.make()
    stamp = None if undo else stamps.now()
    for name in names:
        stamps.Stamps(repository.root).set(name, stamp)
    if options.quiet:
        return
    found, _ = resolve_all(library, pins(options))
    touched = [node for node in found.values() if any(one.name in names for one in node.chain)]
    todo = [node.name for node in touched if not repository.built(node.key)]
    click.echo(f"to be built: {', '.join(todo)}" if todo else "nothing is to be built", err=True)
