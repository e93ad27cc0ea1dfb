"""What a verb is: one file that holds its attributes, its schema fragment, its key inputs, and what it does.

Three kinds register by entry point, one name per element: ``sfvm.steps`` (what happens in a node), ``sfvm.bases``
(how a root node begins), ``sfvm.bundle`` (what a format makes). Built-in verbs are found without entry points, by
listing their package: adding a file is enough.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from sfvm.cancellation import Cancellation
from sfvm.document import Element
from sfvm.errors import Place
from sfvm.events import Listener, ignore
from sfvm.guest import Guest

if TYPE_CHECKING:  # it takes long to import, and plans fetch nothing
    from sfvm.downloads.access import Access

PACKAGES = {"steps": "sfvm.steps", "bases": "sfvm.bases", "bundle": "sfvm.bundle.outputs"}
"""Where the built-in verbs of a kind are."""
JSON = Any
"""A value that ``json.dumps`` takes: what :meth:`Verb.inputs` is made of."""


@runtime_checkable
class Verb(Protocol):
    """One parsed element of a spec."""

    element: ClassVar[str]
    """The element's name, in the namespace ``urn:sfvm:1``."""
    version: ClassVar[int]
    """Raised whenever the implementation changes its result: part of every key."""
    schema: ClassVar[str]
    """A RELAX NG ``<element name="…">…</element>`` pattern. ``<ref name="text-or-variable"/>`` and the other shared
    patterns of :mod:`sfvm.spec.schema` may be used; the namespace is set by the assembly."""

    @property
    def place(self) -> Place:
        """Where the element stands; not part of the key."""

    @classmethod
    def parse(cls, element: Element) -> Self:
        """The verb from its expanded element (variables are replaced, structure is gone).

        :raises SpecError: for what the schema cannot say
        """

    def title(self) -> str:
        """One short line for progress and logs, for example ``packages install nginx curl``."""

    def inputs(self) -> Mapping[str, JSON]:
        """Everything that can change the result, file contents as sha256. Reads files, starts nothing.

        :raises SpecError: when a referenced file is missing or outside the spec's directory
        """


@runtime_checkable
class Step(Verb, Protocol):
    """A verb of a filesystem spec."""

    def run(self, guest: Guest) -> None:
        """Do it. A failing command's CommandFailed passes through."""


@dataclass(frozen=True)
class Host:
    """What a base may use of the host before the appliance starts: *work* is the node's directory, *size* the bytes of
    its disk, *architecture* the machine's, *access* what it has of the network and the download cache."""

    work: Path
    size: int
    architecture: str
    access: Access
    listener: Listener = ignore

    @property
    def stop(self) -> Cancellation:
        """What ends the work."""
        return self.access.stop


@dataclass(frozen=True)
class Attached:
    """A disk image, of one of QEMU's formats, that the appliance sees while a base fills the filesystem; it is only
    read. The first one is :data:`sfvm.guest.ATTACHED` there."""

    path: Path
    format: str


@runtime_checkable
class Base(Verb, Protocol):
    """How a root node begins."""

    def facts(self) -> Mapping[str, str]:
        """What is known of the guest before it exists: ``distribution``, ``release``; available as variables."""

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        """Work on the host before the appliance starts: fetch and check what :meth:`populate` will need.

        :raises SfvmError: it cannot be had, or is not what the spec expects
        """

    def populate(self, guest: Guest, host: Host) -> None:
        """Fill the filesystem, mounted empty; :meth:`prepare` was called with the same *host*."""


@cache
def registry(kind: str) -> Mapping[str, type[Any]]:
    """The verbs of a *kind* (``steps``, ``bases``, ``bundle``) by element name: built-in ones, then those that other
    packages register under the entry point group ``sfvm.<kind>``."""
    found: dict[str, type[Any]] = {}
    package = importlib.import_module(PACKAGES[kind])
    for module in pkgutil.iter_modules(package.__path__, f"{PACKAGES[kind]}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and value.__module__ == module.name and "element" in vars(value):
                found[vars(value)["element"]] = value
    if kind in _registered():
        from importlib.metadata import entry_points

        for point in entry_points(group=f"sfvm.{kind}"):
            verb = point.load()
            found.setdefault(verb.element, verb)
    return MappingProxyType(found)


@cache
def _registered() -> frozenset[str]:
    """The kinds of verbs that any installed package registers. To import :mod:`importlib.metadata` takes longer than
    half of all else, so the files that it would read are looked through first."""
    texts = [text for directory in sys.path for text in _entry_points(directory or ".")]
    return frozenset(kind for kind in PACKAGES if any(f"[sfvm.{kind}]" in text for text in texts))


def _entry_points(directory: str) -> Iterator[str]:
    """The content of every ``entry_points.txt`` (entry points specification, PyPA) of the packages in *directory*."""
    try:
        names = os.listdir(directory)  # noqa: PTH208  counts: hundreds of packages
    except OSError:
        return
    for name in names:
        if name.endswith((".dist-info", ".egg-info")):
            try:
                with open(f"{directory}/{name}/entry_points.txt", encoding="utf-8") as file:  # noqa: PTH123
                    yield file.read()
            except OSError:
                continue
