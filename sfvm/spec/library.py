"""Where specs are found: directories searched in order, the first one that has a name wins."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from sfvm.errors import Place, SpecError, suggestion
from sfvm.spec import parser
from sfvm.spec.model import Spec


class Library:
    """The filesystem specs ``NAME.xml`` directly in *directories*; fragments belong in directories below them. A
    ``NAME.lock.xml`` is no spec.

    Directories are listed once and a spec is read once, when first asked for; directories that do not exist hold
    nothing.
    """

    def __init__(self, directories: Sequence[Path]) -> None:
        self.directories = tuple(dict.fromkeys(directory.absolute() for directory in directories))
        self._specs: dict[str, Spec] = {}

    def names(self) -> tuple[str, ...]:
        """The names of all spec files, sorted, without reading them."""
        return tuple(sorted(self.files))

    @cached_property
    def files(self) -> Mapping[str, Path]:
        """The file of each name.

        :raises OSError: a directory is there, but cannot be read
        """
        found: dict[str, Path] = {}
        for directory in self.directories:
            try:
                entries = os.scandir(directory)
            except (FileNotFoundError, NotADirectoryError):
                continue
            with entries:
                for entry in entries:
                    name, suffix = os.path.splitext(entry.name)  # noqa: PTH122  counts: a thousand specs
                    if suffix == ".xml" and name not in found and not name.endswith(".lock") and entry.is_file():
                        found[name] = directory / entry.name
        return found

    def all(self) -> tuple[Spec, ...]:
        """Every spec, sorted by name.

        :raises SpecError: for the first one that is not valid
        """
        return tuple(self.get(name) for name in self.names())

    def get(self, name: str, place: Place | None = None) -> Spec:
        """The spec called *name*; *place* is where it is referred to.

        :raises SpecError: when there is none, or it is not valid
        """
        if name not in self._specs:
            self._specs[name] = self._load(name, place)
        return self._specs[name]

    def _load(self, name: str, place: Place | None) -> Spec:
        path = self.files.get(name)
        if path is None:
            raise SpecError(
                f"there is no spec {name!r}",
                place=place,
                why="looked in " + ", ".join(map(str, self.directories)),
                hint=suggestion(name, self.names())
                or f"create {name}.xml in one of them, or name another with --specs",
            )
        spec = parser.load(path)
        if spec.name != name:
            raise SpecError(
                f"the spec in {path.name} is named {spec.name!r}",
                place=spec.root.place_of("name"),
                why="a spec is found by its file's name",
                hint=f"rename the file to {spec.name}.xml, or the spec to {name!r}",
            )
        return spec
