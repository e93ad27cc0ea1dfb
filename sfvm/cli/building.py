"""``sfvm build``, ``plan`` and ``bundle``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfvm.cli.options import (
    Command,
    Decorator,
    Options,
    assignments,
    complete_built,
    complete_format,
    complete_node,
    network_options,
    param_option,
    pass_options,
)
from sfvm.cli.output import columns, duration, plain, plural, say, size, style, write_json
from sfvm.errors import UsageError, suggestion

if TYPE_CHECKING:
    from sfvm.appliance.machine import Appliance
    from sfvm.build.scheduler import Job
    from sfvm.bundle.format import FormatRequest
    from sfvm.bundle.secrets import Secret
    from sfvm.cli.progress import Progress
    from sfvm.errors import StepError
    from sfvm.tree import Node, Plan


ALL = "all"
"""As a format: every one that fits."""


def progress_options(function: Any) -> Any:
    """``--log``, ``--events`` and ``--profile`` for commands that take their time."""
    for option in (
        click.option(
            "--profile",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write a trace there (for Perfetto, speedscope); show where the time went.",
        ),
        click.option(
            "--events",
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Write every event there, one JSON object per line.",
        ),
        click.option(
            "--log",
            type=click.Choice(("auto", "live", "plain")),
            default="auto",
            help="How progress is shown. [auto: live on a terminal]",
        ),
    ):
        function = option(function)
    return function


def locked_options(function: Any) -> Any:
    """``--locked`` and ``--locks`` for commands that may keep to locks."""
    for option in (
        click.option(
            "--locks",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            metavar="DIR",
            help="Where lock files are. [beside the specs]",
        ),
        click.option("--locked", is_flag=True, help="Use exactly what NODE.lock.xml names; see `sfvm lock`."),
    ):
        function = option(function)
    return function


def _secrets(_context: click.Context, _parameter: click.Parameter, words: tuple[str, ...]) -> Mapping[str, Secret]:
    """A click callback: the secrets that *words* name."""
    if not words:
        return {}
    from sfvm.bundle.secrets import read

    return read(words)


def format_options(output: str) -> Decorator:
    """``--output``, ``--set``, ``--secret`` and ``--force`` for commands that bundle."""

    def decorate(function: Any) -> Any:
        for option in (
            click.option("--force", is_flag=True, help="Replace bundles that are there already."),
            click.option(
                "--secret",
                "secrets",
                multiple=True,
                metavar="NAME=file:PATH|env:VAR",
                callback=_secrets,
                help="A secret that formats want, and where it is; repeatable.",
            ),
            click.option(
                "--set",
                "values",
                multiple=True,
                metavar="NAME=VALUE",
                callback=assignments,
                help="A param of the formats; repeatable.",
            ),
            click.option(
                "-o",
                "--output",
                type=click.Path(file_okay=False, path_type=Path),
                metavar="DIR",
                default=Path(),
                help=output,
            ),
        ):
            function = option(function)
        return function

    return decorate


@click.command(cls=Command)
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=complete_node)
@click.option(
    "-b",
    "--bundle",
    "formats",
    multiple=True,
    metavar="FORMAT",
    shell_complete=complete_format,
    help="Also bundle each NODE; repeatable; `all` makes every one that fits. See `sfvm formats`.",
)
@format_options("Where bundles go: DIR/NODE-FORMAT/. [.]")
@param_option
@locked_options
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Appliances at once. [as the machine allows]")
@click.option(
    "--on-error",
    type=click.Choice(("stop", "shell", "keep-going")),
    default="stop",
    show_default=True,
    help="When a step fails: stop, open a shell in its guest, or go on with other nodes.",
)
@network_options
@progress_options
@pass_options
def build(
    options: Options,
    nodes: tuple[str, ...],
    formats: tuple[str, ...],
    output: Path,
    values: dict[str, str],
    secrets: Mapping[str, Secret],
    force: bool,
    arguments: dict[str, str],
    locked: bool,
    locks: Path | None,
    jobs: int | None,
    on_error: str,
    allow_hosts: tuple[str, ...],
    log: str,
    events: Path | None,
    profile: Path | None,
) -> None:
    """Build NODEs and what they stand on.

    What is there already is not built again. A build that was interrupted, or failed, resumes at its last
    checkpoint. A NODE is bundled as soon as it is built, while others still are. Paths of bundles are printed on
    stdout.

    \b
    Examples:
      sfvm build web
      sfvm build web db --jobs 2 --param web:site=example
      sfvm build debian --bundle qcow2 --bundle tar --output out/
      sfvm build debian --locked --offline
      sfvm build web --on-error shell
      sfvm build web --profile web.json
    """
    from sfvm.cli.locking import wanted
    from sfvm.cli.progress import shown, started

    begun = started()
    names = tuple(dict.fromkeys(nodes))
    resolved = wanted(options, names, arguments, locked=locked, locks=locks, keep=True)
    settings = options.settings(jobs, allow_hosts)
    requests = _requests(formats, values)

    from sfvm import tree
    from sfvm.build import build as run
    from sfvm.downloads.policy import Policy

    policy = Policy.of(settings, arguments.values())
    repository = options.open()
    todo = tree.plan(resolved, names, repository)
    log = log if todo.chains or requests else "plain"
    directories = [output / f"{name}-{request.format.name}" for name in names for request in requests]
    with _printed(directories) as made, shown(options, begun, log=log, file=events, trace=profile) as progress:
        also: list[Job] = []
        if requests:
            from sfvm.bundle import Bundler

            bundler = Bundler(output, repository, settings, progress.listener, made, force, secrets)
            found = {node.name: node for node in resolved}
            for name in names:
                also += bundler.jobs(name, found[name].key, found[name].definition.facts, requests)
        run(
            todo,
            repository,
            settings,
            progress.listener,
            on_error=on_error,
            shell=_visitor(progress),
            also=also,
            policy=lambda node: policy,
        )
    if not requests and not todo.chains and not options.quiet:
        click.echo(f"nothing to do: {', '.join(names)} built already", err=True)


@click.command(cls=Command)
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...", shell_complete=complete_node)
@param_option
@locked_options
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def plan(
    options: Options,
    nodes: tuple[str, ...],
    arguments: dict[str, str],
    locked: bool,
    locks: Path | None,
    as_json: bool,
) -> None:
    """Say what a build would do, why, and its cost.

    Seconds and bytes are those of the last build of each node.

    \b
    Examples:
      sfvm plan web
      sfvm plan web --param site=example
      sfvm plan web --json | jq .seconds
    """
    from sfvm import tree
    from sfvm.cli.locking import wanted

    names = tuple(dict.fromkeys(nodes))
    found = tree.plan(wanted(options, names, arguments, locked=locked, locks=locks), names, options.open())
    if as_json:
        write_json(_plan_json(found))
        return
    rows = []
    for entry in found.entries:
        hit = entry.action == "hit"
        rows.append(
            (
                style("✓ hit", dim=True) if hit else style("● build", fg="yellow"),
                style(entry.node.name, dim=hit, bold=not hit),
                "" if hit else duration(entry.seconds),
                "" if hit else size(entry.bytes),
                style(plain(entry.reason), dim=hit),
            )
        )
    for line in columns(rows):
        click.echo(line)
    total = f"{plural(len(found.builds), 'node')} to build, {plural(found.boots, 'appliance boot')}"
    if found.builds and found.seconds is not None:
        total += f", about {duration(found.seconds)} and {size(found.bytes)}"
    click.echo(total if found.builds else "nothing to build, no appliance boot")


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.argument("formats", nargs=-1, required=True, metavar="FORMAT...", shell_complete=complete_format)
@format_options("Where bundles go: DIR/NODE-FORMAT/. [.]")
@progress_options
@pass_options
def bundle(
    options: Options,
    node: str,
    formats: tuple[str, ...],
    output: Path,
    values: dict[str, str],
    secrets: Mapping[str, Secret],
    force: bool,
    log: str,
    events: Path | None,
    profile: Path | None,
) -> None:
    """Make images of a built NODE, one for each FORMAT.

    NODE is a name or a key. The FORMAT `all` makes every one that fits the node, and says why others do not. The
    directories made are printed on stdout.

    \b
    Examples:
      sfvm bundle debian qcow2 --output out/
      sfvm bundle debian raw tar
    """
    from sfvm.bundle import bundle as make
    from sfvm.cli.progress import shown, started

    begun = started()
    settings, repository = options.settings(), options.open()
    requests = _requests(formats, values)
    manifest = repository.manifest(repository.resolve(node))
    name = node if node in repository.names() else manifest.name
    wanted = [output / f"{name}-{request.format.name}" for request in requests]
    with (
        _printed(wanted) as printed,
        shown(options, begun, log=log, file=events, trace=profile) as progress,
    ):
        make(
            name, manifest, requests, output, repository, settings, progress.listener, made=printed, force=force,
            secrets=secrets,
        )  # fmt: skip


@contextmanager
def _printed(wanted: Sequence[Path]) -> Iterator[Callable[[Path], None]]:
    """Print those of the directories *wanted* that were made, at the end, in this order, however it ends."""
    made: set[Path] = set()
    try:
        yield made.add
    finally:
        for path in wanted:
            if path in made:
                click.echo(str(path))


def _requests(formats: Sequence[str], values: dict[str, str]) -> tuple[FormatRequest, ...]:
    """The formats asked for, checked before anything starts.

    :raises UsageError: a format that does not exist, or ``--set`` of a param that none has
    """
    if not formats:
        if values:
            raise UsageError("--set needs a format", hint="add --bundle FORMAT")
        return ()
    from sfvm.bundle.format import every, request

    named = tuple(request(name, values, several=True) for name in dict.fromkeys(formats) if name != ALL)
    asked = {wanted.format.name for wanted in named}
    others = every(values) if ALL in formats else ()
    requests = (*named, *(other for other in others if other.format.name not in asked))
    known = {param.name for wanted in requests for param in wanted.format.params}
    for name in values:
        if name not in known:
            raise UsageError(
                f"--set {name}: none of the formats has such a param",
                hint=suggestion(name, known) or "sfvm formats",
            )
    return requests


def _visitor(progress: Progress) -> Any:
    """What ``--on-error shell`` opens: a terminal in the guest whose step failed."""

    def visit(node: Node, appliance: Appliance, error: StepError) -> None:
        with progress.suspended():
            say(error)
            click.echo(f"a shell in {node.name}, as the step left it; leave it with `exit`", err=True)
            appliance.interactive(None)

    return visit


def _plan_json(found: Plan) -> dict[str, Any]:
    return {
        "entries": [
            {
                "name": entry.node.name,
                "key": entry.node.key,
                "parent": entry.node.parent.name if entry.node.parent else None,
                "action": entry.action,
                "reason": entry.reason,
                "seconds": entry.seconds,
                "bytes": entry.bytes,
            }
            for entry in found.entries
        ],
        "chains": [[node.name for node in chain] for chain in found.chains],
        "boots": found.boots,
        "seconds": found.seconds,
        "bytes": found.bytes,
    }
