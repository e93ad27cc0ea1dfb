"""Format specs: found, read, and expanded for one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from sfvm import config, document
from sfvm.bundle.layout import Layout
from sfvm.bundle.stage import Output
from sfvm.document import Element
from sfvm.errors import BundleError, SpecError, UsageError, suggestion
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
    """A format and the values that the user gives to its params."""

    format: FormatSpec
    values: Mapping[str, str]


@dataclass(frozen=True)
class Recipe:
    """A format expanded for a node: the *layout* of its disk (None: a format of files) and its *outputs* in order."""

    format: str
    layout: Layout | None
    outputs: tuple[Output, ...]
    settings: Mapping[str, str]


class Formats:
    """The format specs ``NAME.xml`` in *directories*; the first one that has a name wins."""

    def __init__(self, directories: Sequence[Path] | None = None) -> None:
        if directories is None:
            directories = (Path("formats"), platformdirs.user_config_path("sfvm") / "formats", config.data("formats"))
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
            hint=suggestion(name, self.names()),
        )


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
    """
    spec = wanted.format
    arguments = bind(spec.params, wanted.values, spec.root.place)
    variables = {**facts, **arguments, "name": node}
    layout: Layout | None = None
    outputs: list[Output] = []
    for element in expand_children(
        spec.root, variables, library_dirs=Formats().directories, facts={**facts, "name": node}
    ):
        if element.tag in ("summary", "requires"):
            continue
        verb = registry("bundle")[element.tag].parse(element)
        if isinstance(verb, Layout):
            if layout is not None:
                raise SpecError("a format has one layout", place=element.place, why=f"the first is at {layout.place}")
            layout = verb
        else:
            outputs.append(verb)
    if not outputs:
        raise BundleError(f"format {spec.name} makes nothing", place=spec.root.place, hint="add a <convert> or <tar>")
    return Recipe(spec.name, layout, tuple(outputs), arguments)
