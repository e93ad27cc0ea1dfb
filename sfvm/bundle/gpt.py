"""GUID partition tables as bytes: pure arithmetic (UEFI Specification 2.10, chapter 5)."""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

SECTOR = 512
ALIGNMENT = 1 << 20
ENTRIES = 128
ENTRY_SIZE = 128
TABLE_SECTORS = ENTRIES * ENTRY_SIZE // SECTOR
BOOT_CODE = 440
"""Bytes of the first sector that belong to a boot loader."""

BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
ESP = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
"""Linux file system data, of no special meaning."""
LINUX_ROOT = {
    "x86_64": uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    "aarch64": uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
}
"""Root partitions by architecture (UAPI group, Discoverable Partitions Specification)."""
GROW_FILE_SYSTEM = 1 << 59
"""Attribute: the file system takes its whole partition when it is mounted (the same specification)."""


@dataclass(frozen=True)
class Partition:
    """A partition: *offset* and *size* in bytes, both multiples of 1 MiB; *attributes* are bits."""

    name: str
    type: uuid.UUID
    id: uuid.UUID
    offset: int
    size: int
    attributes: int = 0

    @property
    def first_sector(self) -> int:
        return self.offset // SECTOR


@dataclass(frozen=True)
class Table:
    """A whole disk of *size* bytes."""

    id: uuid.UUID
    partitions: tuple[Partition, ...]
    size: int


def arrange(wanted: Sequence[tuple[str, uuid.UUID, int, int]]) -> Table:
    """Partitions (name, type, bytes, attributes) one after another from 1 MiB on, each aligned to 1 MiB; identifiers
    are fresh."""
    offset = ALIGNMENT
    partitions = []
    for name, kind, size, attributes in wanted:
        size = -(-size // ALIGNMENT) * ALIGNMENT
        partitions.append(Partition(name, kind, uuid.uuid4(), offset, size, attributes))
        offset += size
    return Table(uuid.uuid4(), tuple(partitions), offset + ALIGNMENT)


def head(table: Table, boot_code: bytes = b"") -> bytes:
    """What stands at the beginning of the disk: protective MBR with *boot_code*, header, entries."""
    entries = _entries(table)
    last = table.size // SECTOR - 1
    return _protective_mbr(table, boot_code) + _header(table, 1, last, 2, entries) + entries


def tail(table: Table) -> bytes:
    """What stands at its very end: entries, backup header."""
    entries = _entries(table)
    last = table.size // SECTOR - 1
    return entries + _header(table, last, 1, last - TABLE_SECTORS, entries)


def _protective_mbr(table: Table, boot_code: bytes) -> bytes:
    if len(boot_code) > BOOT_CODE:
        raise ValueError(f"boot code has {len(boot_code)} bytes, {BOOT_CODE} fit")
    sectors = min(table.size // SECTOR - 1, 0xFFFFFFFF)
    record = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, sectors)
    return boot_code.ljust(446, b"\0") + record.ljust(64, b"\0") + b"\x55\xaa"


def _header(table: Table, here: int, other: int, entries_at: int, entries: bytes) -> bytes:
    last = table.size // SECTOR - 1
    fields = struct.pack(
        "<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, here, other, 2 + TABLE_SECTORS,
        last - TABLE_SECTORS - 1, table.id.bytes_le, entries_at, ENTRIES, ENTRY_SIZE, zlib.crc32(entries),
    )  # fmt: skip
    return (fields[:16] + struct.pack("<I", zlib.crc32(fields)) + fields[20:]).ljust(SECTOR, b"\0")


def _entries(table: Table) -> bytes:
    entries = b""
    for partition in table.partitions:
        last = (partition.offset + partition.size) // SECTOR - 1
        entries += partition.type.bytes_le + partition.id.bytes_le
        entries += struct.pack("<QQQ", partition.first_sector, last, partition.attributes)
        entries += partition.name.encode("utf-16-le")[:72].ljust(72, b"\0")
    return entries.ljust(ENTRIES * ENTRY_SIZE, b"\0")
