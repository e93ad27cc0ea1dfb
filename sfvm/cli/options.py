"""What every command has in common: the global options, which may stand before or after the command's name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from sfvm.errors import SfvmError, UsageError, suggestion

if TYPE_CHECKING:
    from sfvm.config import Settings
    from sfvm.repository import Repository
    from sfvm.spec.library import Library
    from sfvm.tree import Node, Pin


CONNECTIONS = ("auto", "direct")


@dataclass
class Options:
    """The global options of one command line."""

    specs: tuple[Path, ...] = ()
    repository: Path | None = None
    connection: str | None = None
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    no_warm: bool = False
    offline: bool = False

    def settings(self, jobs: int | None = None, allow_hosts: Sequence[str] = ()) -> Settings:
        """The settings that follow from these options, the environment and config.toml."""
        from sfvm import config

        return config.load(
            repository=self.repository,
            connection=self.connection,
            jobs=jobs,
            specs=self.specs,
            warm=False if self.no_warm else None,
            offline=self.offline or None,
            allow_hosts=allow_hosts,
        )

    def library(self) -> Library:
        """The specs that can be named."""
        from sfvm.spec.library import Library

        return Library(self.settings().specs)

    def open(self) -> Repository:
        """The repository (created when something is first written)."""
        from sfvm.repository import Repository

        return Repository(self.settings().repository)


def options_of(context: click.Context) -> Options:
    """The global options of a running command."""
    return context.ensure_object(Options)


pass_options = click.make_pass_decorator(Options, ensure=True)


def require(library: Library, names: Iterable[str]) -> None:
    """Check that every name has a spec.

    :raises UsageError: with a suggestion for the first one that has none
    """
    known = library.files
    for name in names:
        if name not in known:
            raise UsageError(
                f"there is no node {name!r}",
                why="no spec of that name in " + ", ".join(map(str, library.directories)),
                hint=suggestion(name, known) or "see `sfvm spec list`; more specs: --specs DIR",
            )


def resolve(options: Options, names: Sequence[str], arguments: Mapping[str, str] | None = None) -> tuple[Node, ...]:
    """The nodes *names* and their ancestors, parents first.

    :raises UsageError: for a name without a spec
    """
    from sfvm import tree

    library = options.library()
    require(library, names)
    return tree.resolve(library, tuple(dict.fromkeys(names)), arguments or {}, pins(options))


def pins(options: Options) -> Mapping[str, Pin]:
    """What refreshes on purpose tie nodes to."""
    from sfvm.repository.stamps import Stamps
    from sfvm.tree import Pin

    return {name: Pin(refreshed=stamp) for name, stamp in Stamps(options.settings().repository).all().items()}


def complete_node(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of node names."""
    names = options_of(context).library().names()
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


def complete_built(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of the names in the repository."""
    return [CompletionItem(name) for name in sorted(options_of(context).open().names()) if name.startswith(incomplete)]


def complete_format(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Shell completion of format names."""
    from sfvm.bundle.format import Formats

    return [CompletionItem(name) for name in (*Formats().names(), "all") if name.startswith(incomplete)]


def assignments(_context: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    """A click callback: ``NAME=VALUE`` words as a mapping."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE", param=parameter)
        found[name] = text
    return found


def param_option(function: Any) -> Any:
    """``--param`` for commands that resolve nodes."""
    return click.option(
        "-p",
        "--param",
        "arguments",
        multiple=True,
        metavar="[NODE:]NAME=VALUE",
        callback=assignments,
        help="A param of the nodes; repeatable.",
    )(function)


def network_options(function: Any) -> Any:
    """``--allow-host`` for commands in which something may be downloaded."""
    return click.option(
        "--allow-host",
        "allow_hosts",
        multiple=True,
        metavar="HOST",
        help="Download from there only: example.org, *.example.org, HOST:PORT; repeatable. [any]",
    )(function)


def _store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a global option, wherever it stood; one given to the command wins, directories add up."""
    options = options_of(context)
    name = str(parameter.name)
    if name == "specs":
        options.specs = (*value, *options.specs)
    elif value:
        if name == "connection" and value not in CONNECTIONS and ":" not in value:
            raise UsageError(
                f"{value!r} is no connection",
                hint=suggestion(value, [*CONNECTIONS, "qemu:///session", "qemu:///system"]),
            )
        setattr(options, name, value)
        if name == "no_color":
            from sfvm.cli import output

            output.disable_color()


@cache
def global_options() -> list[click.Option]:
    """The options that all commands have, and share."""

    def option(*names: str, help: str, **rest: Any) -> click.Option:
        return click.Option(names, help=help, expose_value=False, callback=_store, **rest)

    return [
        option(
            "--specs",
            multiple=True,
            metavar="DIR",
            type=click.Path(exists=True, file_okay=False, path_type=Path),
            help="Look for specs here first; repeatable. [then ./specs, the user's, the shipped ones]",
        ),
        option(
            "--repository",
            metavar="DIR",
            type=click.Path(file_okay=False, path_type=Path),
            help="Where nodes are kept. [$SFVM_HOME, else the user's data directory]",
        ),
        option("--connection", metavar="NAME", help="auto, direct (QEMU without libvirt) or a libvirt URI. [auto]"),
        option("--no-warm", is_flag=True, help="Boot the helper VM, do not restore a saved one."),
        option("--offline", is_flag=True, help="Download nothing: use what the download cache has."),
        option("-q", "--quiet", is_flag=True, help="Results and errors only."),
        option("-v", "--verbose", is_flag=True, help="Show the output of steps too."),
        option("--no-color", is_flag=True, help="No colours (as with NO_COLOR)."),
    ]


GLOBAL = frozenset(str(option.name) for option in global_options())


class _Sections:
    """Help with the global options in a section of their own."""

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        common: list[tuple[str, str]] = []
        assert isinstance(self, click.Command)
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if record:
                (common if parameter.name in GLOBAL else own).append(record)
        for title, records in (("Options", own), ("Options of every command", common)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(context, formatter)


class Command(_Sections, click.Command):
    """A command that takes the global options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options()


class Group(_Sections, click.Group):
    """A group of commands that takes the global options; its commands do too."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += global_options()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UsageError(
                f"there is no command {ctx.command_path + ' ' + args[0]!r}",
                hint=suggestion(args[0], self.commands) or f"{ctx.command_path} --help",
            )
        return super().resolve_command(ctx, args)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def describe_param(param: Any) -> tuple[str, str, str]:
    """A param of a spec, as columns: its name, its default, what it may be."""
    default = "(a value must be given)" if param.default is None else f"default {param.default!r}"
    limits = ""
    if param.choices:
        limits = "one of " + ", ".join(param.choices)
    elif param.pattern:
        limits = f"matches {param.pattern}"
    elif param.type != "string":
        limits = param.type
    return (param.name, default, limits)


def params_json(params: Iterable[Any]) -> list[dict[str, Any]]:
    """The params of a spec, for programs."""
    names = ("name", "default", "type", "pattern", "choices")
    return [{name: getattr(param, name) for name in names} for param in params]


def read_all(library: Any) -> tuple[list[Any], list[tuple[str, SfvmError]]]:
    """The specs of *library* (of filesystems, or of formats), and what is wrong with those that cannot be read."""
    found: list[Any] = []
    problems: list[tuple[str, SfvmError]] = []
    for name in library.names():
        try:
            found.append(library.get(name))
        except SfvmError as error:
            problems.append((name, error))
    return found, problems
