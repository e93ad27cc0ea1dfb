"""GUID partition tables as bytes: pure arithmetic (UEFI Specification 2.10, chapter 5)."""

from __future__ import annotations

import struct
import uuid
import zlib

from sfvm.bundle.disk.partitions import SECTOR, Partition, Table

ENTRIES = 128
ENTRY_SIZE = 128
TABLE_SECTORS = ENTRIES * ENTRY_SIZE // SECTOR
BOOT_CODE = 440
"""Bytes of the first sector that belong to a boot loader."""

LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
"""Linux file system data, of no special meaning."""
LINUX_ROOT = {
    "x86_64": uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    "aarch64": uuid.UUID("b921b045-1df0-41c3-af44-4c6f280d3fae"),
}
"""Root partitions by architecture (UAPI group, Discoverable Partitions Specification)."""
LINUX_ROOT_VERITY = {
    "x86_64": uuid.UUID("2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    "aarch64": uuid.UUID("df3300ce-d69f-4c92-978c-9bfb0f38d820"),
}
"""The hashes of these, likewise."""
TYPES = {
    "bios-boot": uuid.UUID("21686148-6449-6e6f-744e-656564454649"),
    "esp": uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    "swap": uuid.UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
    "data": LINUX,
    "boot": uuid.UUID("bc13c2ff-59e6-4262-a352-b275fd6f7172"),
    "lvm": uuid.UUID("e6d6d379-f507-44c2-a23c-238f2a3df928"),
    "luks": uuid.UUID("ca7d7ccb-63ed-4c53-861c-1742536059cc"),
    "raid": uuid.UUID("a19d880f-05fc-4d3b-a006-743f0f84911e"),
}
"""By the kind of a part; those of a root depend on the architecture."""
GROW_FILE_SYSTEM = 1 << 59
"""Attribute: the file system takes its whole partition when it is mounted (the same specification)."""

LEGACY_BOOT = 1 << 2
"""Attribute: boot code for BIOS goes on with this partition (UEFI Specification 2.10, table 5-8)."""


def partition_type(kind: str, architecture: str) -> uuid.UUID:
    """The type of a partition for a part of *kind*."""
    match kind:
        case "root":
            return LINUX_ROOT.get(architecture, LINUX)
        case "verity":
            return LINUX_ROOT_VERITY.get(architecture, LINUX)
    return TYPES[kind]


def head(table: Table, architecture: str, boot_code: bytes = b"") -> bytes:
    """What stands at the beginning of the disk: protective MBR with *boot_code*, header, entries."""
    entries = _entries(table, architecture)
    last = table.size // SECTOR - 1
    return _protective_mbr(table, boot_code) + _header(table, 1, last, 2, entries) + entries


def tail(table: Table, architecture: str) -> bytes:
    """What stands at its very end: entries, backup header."""
    entries = _entries(table, architecture)
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


def _entries(table: Table, architecture: str) -> bytes:
    entries = b"".join(_entry(partition, architecture) for partition in table.partitions)
    return entries.ljust(ENTRIES * ENTRY_SIZE, b"\0")


def _entry(partition: Partition, architecture: str) -> bytes:
    last = (partition.offset + partition.size) // SECTOR - 1
    attributes = (GROW_FILE_SYSTEM if partition.grow else 0) | (LEGACY_BOOT if partition.active else 0)
    return (
        partition_type(partition.kind, architecture).bytes_le
        + partition.id.bytes_le
        + struct.pack("<QQQ", partition.first_sector, last, attributes)
        + partition.name.encode("utf-16-le")[:72].ljust(72, b"\0")
    )
