"""Finding and loading what ``include`` names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from sfvm import document
from sfvm.document import Element
from sfvm.errors import Place, SpecError, suggestion
from sfvm.spec import schema

MAX_DEPTH = 50


@dataclass(frozen=True)
class Link:
    """One include on the way down: what is included, and where."""

    path: Path
    place: Place


class Finder:
    """Looks in the including file's directory, then in *library_dirs*. Nothing outside these and the directory of
    *path*, the file that everything began with, is ever read."""

    def __init__(self, path: Path, library_dirs: Sequence[Path]) -> None:
        self.path = path
        self.library_dirs = tuple(library_dirs)

    @cached_property
    def roots(self) -> tuple[Path, ...]:
        """What may be read: resolved only when something is included."""
        return tuple(directory.resolve() for directory in (self.path.parent, *self.library_dirs))

    def load(self, element: Element, reference: str, kind: str, chain: Sequence[Link]) -> tuple[Element, Link]:
        """The root element of the fragment that *element* includes, valid for verbs of *kind*.

        :raises SpecError: missing, outside the spec directories, part of a cycle, too deep, or not valid
        """
        path = self._find(element, reference)
        link = Link(path, element.place)
        if path in (earlier.path for earlier in chain):
            raise SpecError(
                f"include cycle: {reference} includes itself",
                place=element.place,
                why="; ".join(f"{step.place} includes {step.path.name}" for step in (*chain, link)),
                hint="remove one of these includes",
            )
        if len(chain) >= MAX_DEPTH:
            raise SpecError(f"includes are nested deeper than {MAX_DEPTH}", place=element.place, hint="include less")
        status = path.stat()
        return _fragment(path, kind, status.st_ino, status.st_size, status.st_mtime_ns), link

    def _find(self, element: Element, reference: str) -> Path:
        for directory in (element.directory, *self.library_dirs):
            path = document.resolve(directory / reference, element.place)
            if path.is_file():
                if not any(path.is_relative_to(root) for root in self.roots):
                    raise SpecError(
                        f"include spec={reference!r} leaves the spec directories",
                        place=element.place_of("spec"),
                        why=f"it is {path}",
                        hint="copy it into one of " + ", ".join(map(str, self.roots)),
                    )
                return path
        raise SpecError(
            f"include spec={reference!r}: there is no such file",
            place=element.place_of("spec"),
            why="looked in " + ", ".join(dict.fromkeys(map(str, (element.directory, *self.library_dirs)))),
            hint=suggestion(reference, self._known()) or "create it, or correct spec",
        )

    def _known(self) -> list[str]:
        """What could be included, for suggestions: fragments live one directory below the specs."""
        return [path.relative_to(root).as_posix() for root in self.roots for path in sorted(root.glob("*/*.xml"))]


@lru_cache(maxsize=1024)
def _fragment(path: Path, kind: str, *identity: int) -> Element:
    root = document.parse(path)
    schema.validate(root, "format-fragment" if kind == "bundle" else "fragment")
    return root
