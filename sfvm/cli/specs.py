"""``sfvm validate``, ``schema``, ``spec`` and ``format``: the language, and what is written in it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from sfvm.cli.options import (
    Command,
    Group,
    Options,
    complete_node,
    describe_param,
    param_option,
    params_json,
    pass_options,
    read_all,
    resolve,
)
from sfvm.cli.output import columns, plain, say, style, write_json
from sfvm.errors import SfvmError, UsageError, suggestion

if TYPE_CHECKING:
    from sfvm.spec.shape import Shape

KINDS = ("filesystem", "fragment", "format")
GROUPS = {"steps": "Steps", "bases": "Bases", "bundle": "Bundle verbs"}


@click.command(cls=Command)
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def validate(options: Options, files: tuple[Path, ...], as_json: bool) -> int:
    """Check spec FILEs.

    What is wrong is told with file, line and column. Nothing is started.

    \b
    Examples:
      sfvm validate specs/*.xml
      sfvm validate formats/vmware.xml
      sfvm validate specs/*.xml --json | jq -r '.[] | select(.error) | .path'
    """
    told: list[dict[str, Any]] = []
    for file in files:
        kind, error = None, None
        try:
            kind = _validate(file, options)
        except SfvmError as wrong:
            error = {
                "what": wrong.what,
                "place": wrong.place and str(wrong.place),
                "why": wrong.why,
                "hint": wrong.hint,
            }
            if not as_json:
                say(wrong)
        told.append({"path": str(file), "kind": kind, "error": error})
        if kind and not as_json and not options.quiet:
            click.echo(f"{file}: a valid {kind}")
    if as_json:
        write_json(told)
    return 1 if any(one["error"] for one in told) else 0


def _validate(file: Path, options: Options) -> str:
    """Check one file as far as it can be without arguments; return its kind.

    :raises SfvmError: the first thing wrong with it
    """
    from sfvm.spec import parser

    kind = parser.check(file)
    if kind == "filesystem":
        _validate_filesystem(file, options)
    return kind


def _validate_filesystem(file: Path, options: Options) -> None:
    """The spec itself, then the node it makes where every param has a default: includes, parents, files."""
    from sfvm import tree
    from sfvm.spec import parser
    from sfvm.spec.library import Library

    spec = parser.load(file)
    library = Library([file.parent, *options.settings().specs])
    if file.stem == spec.name and all(param.default is not None for param in spec.params):
        tree.resolve(library, [spec.name], {})


@click.command(cls=Command)
@click.argument("kind", type=click.Choice(KINDS), default="filesystem")
def schema(kind: str) -> None:
    """Print the RELAX NG schema of specs, for editors.

    KIND is filesystem (when left out), fragment or format.

    \b
    Example:
      sfvm schema > filesystem.rng && xmllint --noout --relaxng filesystem.rng specs/web.xml
    """
    from sfvm.spec.schema import assemble

    sys.stdout.flush()
    sys.stdout.buffer.write(assemble(kind).strip() + b"\n")


@click.group(cls=Group)
def spec() -> None:
    """List and show specs; explain their elements.

    \b
    Examples:
      sfvm spec list
      sfvm spec show web
      sfvm spec help packages
    """


@spec.command("list")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def list_(options: Options, as_json: bool) -> None:
    """List the filesystem specs that can be named.

    \b
    Example:
      sfvm spec list --specs ~/images
    """
    specs, problems = read_all(options.library())
    if as_json:
        write_json(
            [
                {
                    "name": found.name,
                    "parent": found.parent,
                    "summary": found.summary,
                    "path": str(found.path),
                    "params": params_json(found.params),
                }
                for found in specs
            ]
        )
        return
    rows = [(style(s.name, bold=True), s.parent or "(root)", plain(s.summary or str(s.path))) for s in specs]
    rows += [(style(name, fg="red"), "(invalid)", plain(error.what)) for name, error in problems]
    for line in columns(sorted(rows, key=lambda row: click.unstyle(row[0]))):
        click.echo(line)


@spec.command("show")
@click.argument("node", shell_complete=complete_node)
@param_option
@click.option("--params", is_flag=True, help="Its params instead.")
@pass_options
def show(options: Options, node: str, arguments: dict[str, str], params: bool) -> None:
    """Print NODE's spec as it is built: variables replaced, includes, conditions and loops gone.

    \b
    Examples:
      sfvm spec show web
      sfvm spec show web --param site=example
      sfvm spec show debian --params
    """
    from sfvm.cli.options import require
    from sfvm.spec.render import to_xml

    if params:
        library = options.library()
        require(library, [node])
        for line in columns([describe_param(param) for param in library.get(node).params]):
            click.echo(line)
        return
    definition = resolve(options, [node], arguments)[-1].definition
    click.echo(to_xml(definition), nl=False)


def _complete_verb(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from sfvm.spec.schema import STRUCTURE
    from sfvm.verbs import registry

    names = {name for group in GROUPS for name in registry(group)} | STRUCTURE.keys()
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


@spec.command("help")
@click.argument("verb", required=False, metavar="[ELEMENT]", shell_complete=_complete_verb)
def help_(verb: str | None) -> None:
    """List the elements of specs, or explain one ELEMENT with its attributes.

    \b
    Examples:
      sfvm spec help
      sfvm spec help packages
      sfvm spec help param
    """
    from sfvm.spec.schema import STRUCTURE
    from sfvm.verbs import registry

    groups = {group: registry(group) for group in GROUPS}
    if verb is None:
        for group, title in GROUPS.items():
            if groups[group]:
                click.echo(style(title, bold=True))
                rows = [(name, _summary(kind)) for name, kind in sorted(groups[group].items())]
                for line in columns(rows):
                    click.echo("  " + line)
        click.echo(style("Around them", bold=True))
        for line in columns(list(STRUCTURE.items())):
            click.echo("  " + line)
        return
    kinds = [(group, kind) for group, verbs in groups.items() if (kind := verbs.get(verb))]
    if not kinds and not _explain_element(verb, STRUCTURE.get(verb, "")):
        known = {name for verbs in groups.values() for name in verbs} | STRUCTURE.keys()
        raise UsageError(f"there is no element {verb!r}", hint=suggestion(verb, known) or "sfvm spec help")
    for group, kind in kinds:
        _explain(group, verb, kind)


def _summary(kind: type[Any]) -> str:
    return _documentation(kind).partition("\n")[0]


def _documentation(kind: type[Any]) -> str:
    """The class's docstring; not the signature that dataclass() puts there when there is none."""
    text = inspect.cleandoc(kind.__doc__ or "")
    return "" if text.startswith(f"{kind.__name__}(") else text


def _explain(group: str, verb: str, kind: type[Any]) -> None:
    """The reference of one verb: its docstring, its attributes and children as its schema has them."""
    from lxml import etree

    from sfvm.spec import shape
    from sfvm.spec.schema import assemble

    document = "format" if group == "bundle" else "filesystem"
    top = shape.outline(etree.fromstring(assemble(document))).children[document]
    inside = {"steps": "steps", "bases": "base"}.get(group)
    element = (top.children[inside] if inside else top).children[verb]
    click.echo(style(f"<{verb}>", bold=True) + f"  {GROUPS[group].lower()}")
    click.echo(_documentation(kind))
    _attributes(verb, element, top.children.keys())


def _explain_element(name: str, sentence: str) -> bool:
    """The reference of an element that is no verb, but structure or a part of a verb; False when there is none."""
    from lxml import etree

    from sfvm.spec import shape
    from sfvm.spec.schema import KINDS, STRUCTURE, assemble
    from sfvm.verbs import registry

    outlines = [shape.outline(etree.fromstring(assemble(kind))) for kind in KINDS]
    found = [found for outline in outlines if (found := shape.find(name, outline))]
    if not found:
        return False
    element, homes = found[0][0], sorted({home for _, homes in found for home in homes})
    known = {verb for group in GROUPS for verb in registry(group)} | STRUCTURE.keys()
    click.echo(style(f"<{name}>", bold=True) + (f"  in {', '.join(homes)}" if homes else ""))
    if sentence:
        click.echo(sentence)
    _attributes(name, element, known)
    return True


def _attributes(verb: str, element: Shape, others: Collection[str]) -> None:
    """Those of *element*, and of its children but for the *others*."""
    pending = [("", element)]
    while pending:
        path, found = pending.pop(0)
        rows = [
            (
                f"{path}{name}",
                "required" if attribute.required else "",
                attribute.meaning,
            )
            for name, attribute in sorted(found.content.attributes.items(), key=lambda a: (not a[1].required, a[0]))
        ]
        if rows:
            click.echo("\n" + style(f"attributes of {path.strip() or verb}" if path else "attributes", dim=True))
            for line in columns([(row[0].removeprefix(path), *row[1:]) for row in rows]):
                click.echo("  " + line)
        pending += [(f"{path}{name} ", child) for name, child in found.children.items() if name not in others]
        if path.count(" ") > 3:
            break
