"""Format specs: found, read, and expanded for one node."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

from sfvm import config, document
from sfvm.bundle.disk.layout import Layout
from sfvm.bundle.kernel import Kernel
from sfvm.bundle.outputs.layout import LayoutVerb
from sfvm.bundle.outputs.requires import Requires, advice
from sfvm.bundle.stage import Output, Unfit
from sfvm.document import Element
from sfvm.errors import BundleError, Place, SpecError, UsageError, suggestion
from sfvm.spec import schema
from sfvm.spec.expansion import bind, expand_children
from sfvm.spec.model import Param
from sfvm.spec.parser import params, summary
from sfvm.verbs import registry


@dataclass(frozen=True)
class FormatSpec:
    """A format as written; *produces* is the kind of file that users expect."""

    name: str
    produces: str
    summary: str
    params: tuple[Param, ...]
    path: Path
    root: Element


@dataclass(frozen=True)
class FormatRequest:
    """A format and the values that the user gives to its params; one that is *optional* is left out when it does not
    fit the node."""

    format: FormatSpec
    values: Mapping[str, str]
    optional: bool = False


@dataclass(frozen=True)
class Recipe:
    """A format expanded for a node: the *layout* of its disk (None: a format of files), what it *requires* of the
    guest, and its *outputs* in order."""

    format: str
    layout: Layout | None
    requires: tuple[Requires, ...]
    outputs: tuple[Output, ...]
    settings: Mapping[str, str]
    place: Place
    optional: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """What is to be made of the node beside a disk: ``kernel``, ``archive``, ``layers``."""
        own = {"kernel"} if any(required.of_kernel for required in self.requires) else set()
        return frozenset(own.union(*(getattr(output, "needs", ()) for output in self.outputs)))


class Formats:
    """The format specs ``NAME.xml`` in *directories*; the first one that has a name wins. Without *directories* they
    are ``./formats``, those of ``$SFVM_FORMATS`` (separated as in ``$PATH``), the user's own, and ours."""

    def __init__(self, directories: Sequence[Path] | None = None) -> None:
        if directories is None:
            named = [Path(path) for path in os.environ.get("SFVM_FORMATS", "").split(os.pathsep) if path]
            own = platformdirs.user_config_path("sfvm") / "formats"
            directories = (Path("formats"), *named, own, config.data("formats"))
        self.directories = tuple(dict.fromkeys(directory.absolute() for directory in directories))

    def names(self) -> tuple[str, ...]:
        return tuple(sorted({path.stem for directory in self.directories for path in directory.glob("*.xml")}))

    def get(self, name: str) -> FormatSpec:
        """:raises UsageError: there is no such format
        :raises SpecError: it is not valid"""
        for directory in self.directories:
            path = directory / f"{name}.xml"
            if Path(name).name == name and path.is_file():
                root = document.parse(path)
                schema.validate(root, "format")
                produces = root.get("produces") or root.attributes["name"]
                return FormatSpec(root.attributes["name"], produces, summary(root), params(root), path, root)
        raise UsageError(
            f"there is no format {name!r}",
            why="looked in " + ", ".join(map(str, self.directories)),
            hint=suggestion(name, self.names()) or "sfvm formats lists them",
        )


def check(recipe: Recipe, kernel: Kernel | None, packages: frozenset[str], filesystem: str = "") -> None:
    """Whether a node with this *kernel*, these *packages* and a root *filesystem* of this type has what *recipe*
    requires.

    :raises Unfit: it has not; the message names all that is missing
    """
    bootable = recipe.layout is not None and recipe.layout.boot.loader != "none"
    root = (recipe.layout.root.filesystem if recipe.layout else "") or filesystem
    for required in recipe.requires:
        lacking = list(required.missing(kernel, packages, root))
        if kernel is None and required.of_kernel and (bootable or recipe.layout is None):
            lacking.append("a kernel")
        if lacking:
            raise Unfit(
                f"the node does not fit the format {recipe.format}",
                place=required.place,
                why="it lacks " + ", ".join(lacking),
                hint=advice(lacking, kernel),
            )


def every(values: Mapping[str, str]) -> tuple[FormatRequest, ...]:
    """All formats that there are, each optional.

    :raises SpecError: one is not valid
    """
    return tuple(replace(request(name, values, several=True), optional=True) for name in Formats().names())


def request(name: str, values: Mapping[str, str], several: bool = False) -> FormatRequest:
    """The format *name* with those of *values* that it has params for; unless there are *several* formats, all must be.

    :raises UsageError: a value that the format has no param for
    """
    found = Formats().get(name)
    known = {param.name for param in found.params}
    for value in values:
        if value not in known and not several:
            raise UsageError(f"format {name} has no param {value!r}", hint=suggestion(value, known))
    return FormatRequest(found, {key: value for key, value in values.items() if key in known})


def expand(wanted: FormatRequest, node: str, facts: Mapping[str, str]) -> Recipe:
    """What to make of *node*, whose guest has *facts*.

    :raises SpecError: the format asks for something impossible
    :raises UsageError: a param cannot have the value that was given
    :raises Unfit: a param has no default and no value; or either of the above, in an optional format with values
    """
    try:
        return _expand(wanted, node, facts)
    except (SpecError, UsageError) as error:
        if not (wanted.optional and wanted.values):
            raise
        why = f"{error.what}: {error.why}" if error.why else error.what
        raise Unfit(
            f"format {wanted.format.name} does not take what is set", place=error.place, why=why, hint=error.hint
        ) from error


def _expand(wanted: FormatRequest, node: str, facts: Mapping[str, str]) -> Recipe:
    spec = wanted.format
    for param in spec.params:
        if param.default is None and param.name not in wanted.values:
            raise Unfit(
                f"format {spec.name} needs a value for its param {param.name!r}",
                place=param.place,
                why=f"it needs --set {param.name}=…",
                hint=f"sfvm format show {spec.name} lists the params",
            )
    arguments = bind(spec.params, wanted.values, spec.root.place, unfit=UsageError)
    variables = {**facts, **arguments, "name": node}
    layout: Layout | None = None
    requires: list[Requires] = []
    outputs: list[Output] = []
    for element in expand_children(
        spec.root, variables, library_dirs=Formats().directories, facts={**facts, "name": node}
    ):
        if element.tag == "summary":
            continue
        verb = registry("bundle")[element.tag].parse(element)
        if isinstance(verb, LayoutVerb):
            if layout is not None:
                raise SpecError("a format has one layout", place=element.place, why=f"the first is at {layout.place}")
            layout = verb.layout
            requires += verb.requires()
        elif isinstance(verb, Requires):
            requires.append(verb)
        else:
            outputs.append(verb)
    if not outputs:
        raise BundleError(f"format {spec.name} makes nothing", place=spec.root.place, hint="add a <convert> or <tar>")
    return Recipe(spec.name, layout, tuple(requires), tuple(outputs), arguments, spec.root.place, wanted.optional)
