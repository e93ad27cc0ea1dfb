"""What a format asks of a disk, as values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sfvm.errors import Place

MIB = 1 << 20
BIOS_BOOT_SIZE = MIB
CONTAINERS = ("lvm", "raid", "luks")
"""Kinds of parts that other parts are in."""


@dataclass(frozen=True)
class Boot:
    """How the disk boots: the *loader*, the kernel's *consoles* (the last one becomes /dev/console) and more
    *arguments*, the menu's *timeout* in seconds."""

    loader: str = "none"
    consoles: tuple[str, ...] = ()
    arguments: str = ""
    timeout: int = 1


@dataclass(frozen=True)
class Part:
    """A part of the disk, or of a container.

    *kind* is ``root``, ``esp``, ``bios-boot``, ``swap`` or ``data``, or one of :data:`CONTAINERS`, which have *parts*;
    a ``raid`` without parts is the other half of the one before; ``verity`` has the hashes of the root before, which
    *verity* marks. *size* is in bytes, with *unit* ``more`` so many bytes more than what is on it needs, with
    ``percent`` hundredths of the node's size; None is what follows from the content: a root as large as the node, an
    ESP as large as its loader needs, all that is left of a container.
    *filesystem* "" is a root as the node has it. *mount* is where the part is in the guest; *grow* marks a root that
    takes its whole partition when it is mounted; *subvolumes* are btrfs's, by their paths. *name* is that of an LVM
    volume or group, or of what LUKS opens; *pool* that of the thin pool in a group, *secret* that of the passphrase.
    """

    kind: str
    size: int | None = None
    filesystem: str = ""
    mount: str = ""
    options: str = "defaults"
    grow: bool = False
    unit: str = "bytes"
    subvolumes: tuple[str, ...] = ()
    name: str = ""
    pool: str = ""
    verity: bool = False
    secret: str = ""
    parts: tuple[Part, ...] = ()
    place: Place | None = field(default=None, compare=False)

    def bytes(self, node: int) -> int | None:
        """The size, for a node of *node* bytes; None where it is known only when the part is made."""
        match self.unit:
            case "percent":
                return -(-node * (self.size or 0) // 100 // MIB) * MIB
            case "more":
                return None
        return node if self.size is None and self.kind == "root" else self.size

    def walk(self) -> Iterator[Part]:
        """This part and what is in it."""
        yield self
        for part in self.parts:
            yield from part.walk()

    def inputs(self) -> Mapping[str, Any]:
        """Everything that makes a difference, for JSON."""
        plain = {"kind": self.kind, "size": self.size, "filesystem": self.filesystem, "mount": self.mount,
                 "options": self.options, "grow": self.grow}  # fmt: skip
        more = {"unit": self.unit, "subvolumes": list(self.subvolumes), "name": self.name, "pool": self.pool,
                "verity": self.verity, "secret": self.secret,
                "parts": [part.inputs() for part in self.parts]}  # fmt: skip
        return {**plain, **{name: value for name, value in more.items() if value and value != "bytes"}}


@dataclass(frozen=True)
class Layout:
    """A disk: its partition *table* (``gpt``, ``mbr`` or ``none``: the root filesystem is the disk), its *parts* in
    order, how it boots. *size* is the least size of all, *multiple* what it is rounded up to; both in bytes."""

    table: str
    parts: tuple[Part, ...]
    boot: Boot = Boot()
    size: int = 0
    multiple: int = MIB
    place: Place | None = field(default=None, compare=False)

    def part(self, kind: str) -> Part | None:
        """The partition of a kind that there is one of."""
        return next((part for part in self.parts if part.kind == kind), None)

    def walk(self) -> Iterator[Part]:
        """All parts, also those in containers."""
        for part in self.parts:
            yield from part.walk()

    @property
    def root(self) -> Part:
        return next(part for part in self.walk() if part.kind == "root")  # the schema wants one

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of the secrets that it wants."""
        return tuple(dict.fromkeys(part.secret for part in self.parts if part.secret))

    @property
    def boot_part(self) -> Part | None:
        """The part that the guest's /boot is on, if it has one of its own."""
        return next((part for part in self.walk() if part.kind == "data" and part.mount == "/boot"), None)

    def inputs(self) -> Mapping[str, Any]:
        """Everything that makes a difference, for JSON."""
        parts = [part.inputs() for part in self.parts]
        boot = {"loader": self.boot.loader, "consoles": list(self.boot.consoles), "arguments": self.boot.arguments,
                "timeout": self.boot.timeout}  # fmt: skip
        return {"table": self.table, "parts": parts, "boot": boot, "size": self.size, "multiple": self.multiple}

    def finishing(self) -> Mapping[str, Any]:
        """What of it makes a difference inside the parts, not only in where they are."""
        return {name: value for name, value in self.inputs().items() if name not in ("size", "multiple")}
