"""Master boot records as bytes: a boot loader's code, four partitions, no more (IBM PC; see sfdisk(8))."""

from __future__ import annotations

import struct

from sfvm.bundle.disk.partitions import SECTOR, Partition, Table

BOOT_CODE = 440
TYPES = {"root": 0x83, "data": 0x83, "boot": 0x83, "swap": 0x82, "esp": 0xEF, "lvm": 0x8E, "raid": 0xFD, "luks": 0xE8}
"""By the kind of a part (UEFI Specification 2.10, 5.2.2, for the ESP; ``sfdisk --label dos --list-types``)."""
ACTIVE = ("root", "lvm", "raid", "luks")
GAP_SECTOR = 1
"""GRUB's core image lies between the record and the first partition (GRUB manual, BIOS installation)."""
MOST_SECTORS = 0xFFFFFFFF


def gap(table: Table) -> int:
    """The bytes between the record and the first partition."""
    return min(partition.offset for partition in table.partitions) - GAP_SECTOR * SECTOR


def head(table: Table, boot_code: bytes = b"") -> bytes:
    """The first sector. What its code goes on with is marked active, else what the root is on: some firmware boots
    nothing else.

    :raises ValueError: what an MBR cannot say
    """
    if len(boot_code) > BOOT_CODE:
        raise ValueError(f"boot code has {len(boot_code)} bytes, {BOOT_CODE} fit")
    if table.size // SECTOR > MOST_SECTORS:
        raise ValueError(f"a disk of {table.size >> 40} TiB is too large for an MBR, which ends at 2 TiB")
    marked = [part for part in table.partitions if part.active] or [p for p in table.partitions if p.kind in ACTIVE]
    records = b"".join(_record(partition, partition in marked) for partition in table.partitions)
    return boot_code.ljust(BOOT_CODE, b"\0") + table.id.bytes[:4] + bytes(2) + records.ljust(64, b"\0") + b"\x55\xaa"


def identifier(table: Table) -> str:
    """The disk's identifier as the kernel and sfdisk write it: ``0x1234abcd``; PARTUUIDs begin with it."""
    return f"0x{int.from_bytes(table.id.bytes[:4], 'little'):08x}"


def _record(partition: Partition, active: bool) -> bytes:
    """CHS addresses say "see the sectors" (as sfdisk writes them beyond 8 GB)."""
    return struct.pack(
        "<B3sB3sII",
        0x80 if active else 0,
        b"\xfe\xff\xff",
        TYPES[partition.kind],
        b"\xfe\xff\xff",
        partition.first_sector,
        partition.size // SECTOR,
    )
