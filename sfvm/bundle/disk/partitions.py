"""Where partitions are: arithmetic that all partition tables share."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

SECTOR = 512
ALIGNMENT = 1 << 20


@dataclass(frozen=True)
class Partition:
    """A partition: *offset* and *size* in bytes, both multiples of 1 MiB; *kind* is that of the layout's part;
    *grow* lets its file system take all of it when it is mounted; *active* is the one whose first sector the disk's
    own goes on with."""

    kind: str
    name: str
    id: uuid.UUID
    offset: int
    size: int
    grow: bool = False
    active: bool = False

    @property
    def first_sector(self) -> int:
        return self.offset // SECTOR


@dataclass(frozen=True)
class Table:
    """A whole disk of *size* bytes."""

    id: uuid.UUID
    partitions: tuple[Partition, ...]
    size: int


@dataclass(frozen=True)
class Wanted:
    """A partition to be placed; *size* is in bytes."""

    kind: str
    name: str
    size: int
    grow: bool = False
    active: bool = False


def arrange(wanted: Sequence[Wanted], identity: uuid.UUID, *, least: int = 0, multiple: int = ALIGNMENT) -> Table:
    """Partitions one after another from 1 MiB on, each aligned to 1 MiB, with 1 MiB left at the end (for a GPT's copy).
    The disk has at least *least* bytes and is a whole number of *multiple*; a last partition that may grow gets what
    that adds. Identifiers follow from *identity*."""
    offset = ALIGNMENT
    partitions = []
    for number, part in enumerate(wanted):
        size = _up(part.size, ALIGNMENT)
        unique = partition_id(identity, number)
        partitions.append(Partition(part.kind, part.name, unique, offset, size, part.grow, part.active))
        offset += size
    size = _up(max(offset + ALIGNMENT, least), multiple)
    return Table(identity, tuple(partitions), size)


def partition_id(identity: uuid.UUID, number: int) -> uuid.UUID:
    """The identifier of the partition *number*, from 0, of the disk *identity*."""
    return uuid.uuid5(identity, f"partition {number}")


def whole(size: int, identity: uuid.UUID, *, least: int = 0, multiple: int = SECTOR) -> Table:
    """A disk without a table, which is a file system of *size* bytes."""
    root = Partition("root", "root", identity, 0, size)
    return Table(identity, (root,), _up(max(size, least), multiple))


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
