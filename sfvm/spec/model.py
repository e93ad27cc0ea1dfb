"""What a filesystem spec means, once everything variable in it is settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.verbs import Base, Step


@dataclass(frozen=True)
class Param:
    """A parameter of a spec; *default* None means that a value must be given; *type* is one of
    :data:`sfvm.spec.patterns.TYPES`."""

    name: str
    default: str | None
    pattern: str | None
    choices: tuple[str, ...]
    place: Place
    type: str = "string"


@dataclass(frozen=True)
class Disk:
    """A root node's disk: *size* in bytes, *format* is the filesystem's type (ext4, xfs, btrfs)."""

    size: int
    format: str


@dataclass(frozen=True)
class Spec:
    """A filesystem spec as written: valid against the schema, not yet expanded."""

    name: str
    parent: str | None
    summary: str
    params: tuple[Param, ...]
    path: Path
    root: Element


@dataclass(frozen=True)
class Definition:
    """A filesystem spec expanded for given arguments: what a node is made by.

    Exactly one of *parent* and *base* is set; *disk* goes with *base*. *arguments* are the values of the spec's own
    params; *facts* what is known of the guest (``architecture``, ``distribution``, ``release``). *expanded* is the
    whole spec after expansion, for :func:`sfvm.spec.render.to_xml`.
    """

    name: str
    parent: str | None
    summary: str
    disk: Disk | None
    base: Base | None
    steps: tuple[Step, ...]
    arguments: Mapping[str, str]
    facts: Mapping[str, str]
    place: Place
    expanded: Element | None = field(default=None, compare=False, repr=False)
