"""``sfvm tree``, ``why``, ``show``, ``sbom``, ``log``: what there is, without changing it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from sfvm.cli.options import (
    Command,
    Options,
    complete_built,
    complete_node,
    network_options,
    param_option,
    pass_options,
    resolve,
)
from sfvm.cli.output import columns, duration, plain, plural, say, size, style, write_json
from sfvm.errors import SfvmError, UsageError, suggestion

if TYPE_CHECKING:
    from sfvm.cli.survey import Entry


@click.command(cls=Command)
@click.argument("nodes", nargs=-1, metavar="[NODE]...", shell_complete=complete_node)
@click.option("--outdated", is_flag=True, help="Ask the package managers of built nodes what is newer.")
@network_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def tree(options: Options, nodes: tuple[str, ...], outdated: bool, allow_hosts: tuple[str, ...], as_json: bool) -> int:
    """Show what is built, stale and missing.

    Without NODE: every spec there is. A stale node was built from inputs that have changed since; `sfvm why NODE`
    names them. Sizes are of the node's own overlay.

    With --outdated a helper VM looks into a throw-away copy of each built node that has no built child, with fresh
    indexes of its repositories, and counts the newer packages and, where the repository tells (apt, dnf), security
    fixes. `sfvm refresh NODE` lets a node be built anew. The exit status is 1 when a node could not be asked.

    \b
    Examples:
      sfvm tree
      sfvm tree web                web and its ancestors
      sfvm tree web --outdated
      sfvm tree --json | jq '.[] | select(.state == "stale") | .name'
    """
    from sfvm.cli import survey

    found = survey.survey(options, nodes)
    failed: Sequence[SfvmError] = ()
    if outdated:
        from sfvm.cli.progress import Plain

        listener = Plain(sys.stderr, verbose=options.verbose, only_notices=not options.verbose)
        found, failed = survey.outdated(options.settings(allow_hosts=allow_hosts), found, listener)
    entries = {entry.name: entry for entry in found}
    if as_json:
        write_json([entry.to_json() for entry in entries.values()])
    else:
        _show(entries, outdated)
    for error in failed:
        say(error)
    return 1 if failed else 0


def _show(entries: Mapping[str, Entry], outdated: bool) -> None:
    from sfvm.cli.treelines import branches

    if not entries:
        click.echo("no specs; see `sfvm build --help`", err=True)
    looks = {"built": "green", "stale": "yellow", "missing": None, "invalid": "red", "unspecified": "magenta"}
    rows = []
    for name, margin, _ in branches([(entry.name, entry.parent) for entry in entries.values()]):
        entry = entries[name]
        rows.append(
            (
                style(margin, dim=True) + style(name, bold=entry.state == "built"),
                style(entry.state, fg=looks[entry.state], dim=entry.state == "missing"),
                size(entry.size) if entry.size is not None else "",
                *((_waiting(entry),) if outdated else ()),
                style(plain(entry.note), dim=True),
            )
        )
    for line in columns(rows):
        click.echo(line)


def _waiting(entry: Entry) -> str:
    if not entry.waiting:
        return ""
    fixes = sum(waiting.security for waiting in entry.waiting)
    newer = f"{len(entry.waiting)} newer"
    return style(f"{newer}, {fixes} security" if fixes else newer, fg="red" if fixes else "yellow")


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_node)
@param_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def why(options: Options, node: str, arguments: dict[str, str], as_json: bool) -> None:
    """Say which inputs of NODE changed since its last build.

    \b
    Examples:
      sfvm why web
      sfvm why web --json
    """
    from sfvm import tree as trees

    found = resolve(options, [node], arguments)[-1]
    repository = options.open()
    last = repository.last(node)

    def load(key: str) -> Any:
        try:
            return repository.manifest(key).inputs
        except SfvmError:
            return None  # removed since: explain says what it can without it

    differences = trees.explain(found, last["inputs"] if last else None, load)
    built = repository.built(found.key)
    if as_json:
        write_json(
            {
                "name": node,
                "key": found.key,
                "built": built,
                "last": last["key"] if last else None,
                "differences": [
                    {"where": d.where, "before": d.before, "after": d.after, "text": d.text, "inherited": d.inherited}
                    for d in differences
                ],
            }
        )
        return
    if last is None:
        click.echo(f"{node}: " + ("built, under another name" if built else "never built"))
    elif not differences:
        click.echo(f"{node}: nothing changed" + (", it is built" if built else ", but its overlay is missing"))
    else:
        state = "built from these inputs before" if built else "will be built"
        click.echo(f"{node}: {plural(len(differences), 'change')} since {_when(last.get('created'))}; {state}")
        for difference in differences:
            click.echo("  " + plain(difference.text, keep="\n\t").replace("\n", "\n  "))


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.option("--packages", is_flag=True, help="List the installed packages.")
@click.option("--json", "as_json", is_flag=True, help="The whole manifest.")
@pass_options
def show(options: Options, node: str, packages: bool, as_json: bool) -> None:
    """Show a built NODE: steps, times, sizes, provenance.

    NODE is a name, a key, or the beginning of a key.

    \b
    Examples:
      sfvm show debian
      sfvm show debian --packages | grep openssl
      sfvm show 3f9c2a --json
    """
    repository = options.open()
    manifest = repository.manifest(repository.resolve(node))
    if as_json:
        write_json(manifest.to_json())
        return
    if packages:
        for line in columns([tuple(map(plain, package)) for package in manifest.packages]):
            click.echo(line)
        return
    parent = f"{manifest.parent_name} ({manifest.parent[:12]})" if manifest.parent else "none: a root"
    facts: list[tuple[str, str]] = [
        ("key", manifest.key),
        ("parent", parent),
        ("depth", str(manifest.depth)),
        ("built", f"{_when(manifest.created)}, in {duration(manifest.seconds)}"),
        ("overlay", f"{size(manifest.size)}, sha256 {manifest.digest}"),
        ("disk", f"{size(manifest.disk)}, {manifest.filesystem}"),
        ("packages", str(len(manifest.packages))),
        *((name, str(value)) for name, value in sorted(manifest.facts.items())),
        *((name, str(value)) for name, value in sorted(manifest.provenance.items())),
    ]
    click.echo(style(manifest.name, bold=True))
    for line in columns([(style(plain(name), dim=True), plain(value)) for name, value in facts]):
        click.echo("  " + line)
    if manifest.steps:
        click.echo("  " + style("steps", dim=True))
        steps = [(str(i), plain(s.title), duration(s.seconds)) for i, s in enumerate(manifest.steps, start=1)]
        for line in columns(steps):
            click.echo("    " + line)


def _complete_sbom(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from sfvm.sbom import FORMATS

    return [CompletionItem(name) for name in FORMATS if name.startswith(incomplete)]


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.option(
    "--format",
    "kind",
    default="spdx",
    show_default=True,
    metavar="NAME",
    shell_complete=_complete_sbom,
    help="spdx (2.3) or cyclonedx (1.6).",
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Instead of stdout."
)
@pass_options
def sbom(options: Options, node: str, kind: str, output: Path | None) -> None:
    """Print a bill of materials of a built NODE.

    It is JSON and lists the installed packages. The same build of a node gives the same bytes; the time in it is that
    of the build, or SOURCE_DATE_EPOCH. NODE is a name, a key, or the beginning of a key.

    \b
    Examples:
      sfvm sbom debian
      sfvm sbom debian --output debian.spdx.json
      sfvm sbom debian --format cyclonedx | jq -r '.components[].purl'
    """
    from sfvm import sbom as documents
    from sfvm.config import source_date_epoch

    if (make := documents.FORMATS.get(kind)) is None:
        raise UsageError(f"there is no SBOM format {kind!r}", hint=suggestion(kind, documents.FORMATS))
    repository = options.open()
    manifest = repository.manifest(repository.resolve(node))
    content = documents.dump(make(manifest, source_date_epoch(manifest.created)))
    if output is None:
        click.echo(content, nl=False)
        return
    from sfvm.repository.files import write_atomically, writing

    with writing("the SBOM", output):
        if output.exists() and not output.is_file():  # a pipe, a device: /dev/stdout
            output.write_bytes(content)
        else:
            target = output.resolve()
            write_atomically(target, content, target.parent)


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_node)
@pass_options
def log(options: Options, node: str) -> None:
    """Print what NODE's steps wrote in its last build.

    That is the build of the spec as it is now, failed or not, if there was one; or a later one, with other params or
    from a lock, that has not ended well.

    \b
    Examples:
      sfvm log web
      sfvm log web | grep -i warning
    """
    repository = options.open()
    keys: list[str] = []
    problems: list[SfvmError] = []
    # The spec may be broken or gone: what was built keeps its log. And a first build that failed has no name yet.
    finders: tuple[Callable[[], str], ...] = (
        lambda: resolve(options, [node])[-1].key,
        lambda: repository.resolve(node),
    )
    for find in finders:
        try:
            keys.append(find())
        except SfvmError as error:
            problems.append(error)
    others = [work.key for work in repository.unfinished(node)]
    if not keys and not others:
        raise problems[0]
    # What a failure tells to look at is the last one's log, also when the build had params that are not known here.
    logs = [[path for key in some if (path := repository.log_path(key)).exists()] for some in (keys, others)]
    if paths := [*logs[0][:1], *logs[1]]:
        with max(paths, key=lambda path: path.stat().st_mtime).open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                sys.stdout.write(plain(line, keep="\n\t") if sys.stdout.isatty() else line)
        return
    raise UsageError(
        f"there is no log of {node!r}",
        why="it was never built here",
        hint=suggestion(node, repository.names()) if node not in repository.names() else f"sfvm build {node}",
    )


def _when(seconds: float | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "an unknown time"
