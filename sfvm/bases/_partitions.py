"""Partition tables, read from raw disks (UEFI Specification, chapter 5, for GPT and MBR)."""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import BinaryIO

SECTOR = 512
LINUX_MBR = 0x83
EXTENDED = (0x05, 0x0F, 0x85)
PROTECTIVE = 0xEE
MAX_ENTRIES = 256
LINUX_GPT = {
    uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4"),  # Linux filesystem data
    uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),  # root, x86-64
    uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),  # root, aarch64
    uuid.UUID("44479540-f297-41b2-9af7-d131d5f0458a"),  # root, x86
    uuid.UUID("69dad710-2ce4-4e3c-b16c-21a1d49abed3"),  # root, 32-bit ARM
    uuid.UUID("72ec70a6-cf74-40e6-bd49-4bda08e8f224"),  # root, riscv64
    uuid.UUID("c31c45e6-3f39-412e-80fb-4809c4980599"),  # root, ppc64le
}
"""Types of GPT partitions (Discoverable Partitions Specification)."""


class Damaged(ValueError):
    """There is a partition table, and it makes no sense."""


@dataclass(frozen=True)
class Partition:
    """A partition: its *number* as Linux counts, *offset* and *size* in bytes, and whether it may be a Linux root."""

    number: int
    offset: int
    size: int
    linux: bool


def read(disk: BinaryIO) -> tuple[Partition, ...]:
    """The partitions of *disk*; none when it has no table. Logical partitions of an MBR are left out.

    :raises Damaged: the disk says that it has a GPT, and has none that can be read
    """
    disk.seek(0)
    mbr = disk.read(SECTOR)
    if len(mbr) < SECTOR or mbr[510:] != b"\x55\xaa":
        return ()
    records = [struct.unpack("<B3sB3sII", mbr[446 + 16 * i : 462 + 16 * i]) for i in range(4)]
    if any(record[2] == PROTECTIVE for record in records):
        return _gpt(disk)
    if any(record[0] not in (0x00, 0x80) for record in records):
        return ()  # a boot sector of a filesystem has the same signature
    return tuple(
        Partition(number, first * SECTOR, count * SECTOR, kind == LINUX_MBR)
        for number, (_, _, kind, _, first, count) in enumerate(records, start=1)
        if kind and kind not in EXTENDED and count
    )


def _gpt(disk: BinaryIO) -> tuple[Partition, ...]:
    disk.seek(SECTOR)
    header = disk.read(92)
    if len(header) < 92 or header[:8] != b"EFI PART":
        raise Damaged("the MBR announces a GPT, and sector 1 has none")
    at, entries, size = struct.unpack("<QII", header[72:88])
    if not 128 <= size <= 4096 or entries > MAX_ENTRIES:
        raise Damaged(f"the GPT has {entries} entries of {size} bytes")
    found = []
    disk.seek(at * SECTOR)
    for number in range(1, entries + 1):
        entry = disk.read(size)
        if len(entry) < size:
            raise Damaged("the GPT ends within its entries")
        kind = uuid.UUID(bytes_le=entry[:16])
        first, last = struct.unpack("<QQ", entry[32:48])
        if kind.int and last >= first:
            found.append(Partition(number, first * SECTOR, (last - first + 1) * SECTOR, kind in LINUX_GPT))
    return tuple(found)
