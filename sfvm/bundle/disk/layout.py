"""What a format asks of a disk, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sfvm.errors import Place

MIB = 1 << 20
BIOS_BOOT_SIZE = MIB


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
    """A part of the disk.

    *kind* is ``root``, ``esp``, ``bios-boot``, ``swap`` or ``data``; *size* is in bytes, None for a root that is as
    large as the node; *filesystem* "" is a root as the node has it. *mount* is where the part is in the guest; *grow*
    marks a root that takes its whole partition when it is mounted.
    """

    kind: str
    size: int | None = None
    filesystem: str = ""
    mount: str = ""
    options: str = "defaults"
    grow: bool = False
    place: Place | None = field(default=None, compare=False)


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
        """The part of a kind that there is one of."""
        return next((part for part in self.parts if part.kind == kind), None)

    @property
    def root(self) -> Part:
        found = self.part("root")
        assert found is not None  # the schema wants it
        return found

    def inputs(self) -> Mapping[str, Any]:
        """Everything that makes a difference, for JSON."""
        parts = [
            {"kind": part.kind, "size": part.size, "filesystem": part.filesystem, "mount": part.mount,
             "options": part.options, "grow": part.grow}
            for part in self.parts
        ]  # fmt: skip
        boot = {"loader": self.boot.loader, "consoles": list(self.boot.consoles), "arguments": self.boot.arguments,
                "timeout": self.boot.timeout}  # fmt: skip
        return {"table": self.table, "parts": parts, "boot": boot, "size": self.size, "multiple": self.multiple}

    def finishing(self) -> Mapping[str, Any]:
        """What of it makes a difference inside the parts, not only in where they are."""
        return {name: value for name, value in self.inputs().items() if name not in ("size", "multiple")}
