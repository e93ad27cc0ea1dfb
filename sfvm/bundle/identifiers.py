"""The identifiers that ``qemu-img`` draws at random for the files it writes, and the times, made to follow from the
node."""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import IO

VDI_IDENTIFIERS = (0x188, 0x198)
"""Of the image and of its last change (VirtualBox, ``VDICore.h``, VDIHEADER1: uuidCreate, uuidModify)."""

VHDX_HEADERS = (64 << 10, 128 << 10)
VHDX_HEADER_SIZE = 4 << 10
VHDX_REGIONS = 192 << 10
VHDX_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
VHDX_PAGE83 = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746").bytes_le
"""MS-VHDX, sections 2.2 (headers, region table) and 2.6 (metadata; the SCSI identifier is in its page 83 item)."""

VHD_FOOTER = 512
"""Bytes at the end of the file; a dynamic disk has a copy at its beginning (Microsoft, Virtual Hard Disk Image Format
Specification 1.0, "Hard Disk Footer Format")."""
VHD_TIME, VHD_TYPE, VHD_CHECKSUM, VHD_IDENTIFIER = 24, 60, 64, 68
"""Offsets in it: time (seconds since 2000-01-01 UTC), type, sum, UUID; big-endian."""
VHD_DYNAMIC = 3
YEAR_2000 = 946684800


def settle(path: Path, kind: str, unique: uuid.UUID, epoch: int = 0) -> None:
    """Replace the random identifiers in the file *path* that ``qemu-img`` has written in its format *kind* by ones made
    from *unique*, and its time by *epoch*, in seconds since 1970; formats that have none stay as they are."""
    if kind == "vpc":
        with path.open("r+b") as file:
            _vhd(file, unique, epoch)
    elif (change := _KINDS.get(kind)) is not None:
        with path.open("r+b") as file:
            change(file, unique)


def _vdi(file: IO[bytes], unique: uuid.UUID) -> None:
    for number, offset in enumerate(VDI_IDENTIFIERS):
        file.seek(offset)
        file.write(uuid.uuid5(unique, str(number)).bytes_le)


def _vmdk(file: IO[bytes], unique: uuid.UUID) -> None:
    """The content identifier in the descriptor: a text file, or part of a sparse extent, whose header tells where
    (VMware, "Virtual Disk Format 5.0")."""
    head = file.read(512)
    start, room = 0, file.seek(0, 2)
    if head.startswith(b"KDMV"):
        start, room = (512 * number for number in struct.unpack_from("<QQ", head, 28))
    file.seek(start)
    # qemu-img writes its identifier without leading zeros, and leaves what was behind a longer one.
    before = file.read(room).partition(b"\0")[0]
    # Not 32 bits: all ones mean that there is none.
    after = re.sub(rb"(?m)^CID=[0-9a-f]+", b"CID=%08x" % (unique.int & 0x7FFFFFFF), before)
    file.seek(start)
    file.write(after.ljust(room, b"\0"))


def _vhdx(file: IO[bytes], unique: uuid.UUID) -> None:
    """Both headers, the older one first, without what is left in a log that is empty; and the disk's identifier."""
    headers = []
    for offset in VHDX_HEADERS:
        file.seek(offset)
        headers.append((offset, bytearray(file.read(VHDX_HEADER_SIZE))))
    headers.sort(key=lambda header: int.from_bytes(header[1][8:16], "little"))
    for number, (offset, header) in enumerate(headers, 1):
        # signature, checksum (as of a header that has 0), sequence number, and the identifiers of the file and its data
        names = (uuid.uuid5(unique, name).bytes_le for name in ("file", "data"))
        struct.pack_into("<IQ16s16s", header, 4, 0, number, *names)
        struct.pack_into("<I", header, 4, crc32c(header))
        file.seek(offset)
        file.write(header)
    current = headers[-1][1]
    if not any(current[48:64]):
        length, offset = struct.unpack_from("<IQ", current, 68)
        file.seek(offset)
        file.write(bytes(length))
    metadata = _entry(file, VHDX_REGIONS, 16, VHDX_METADATA, "<16xQ")
    item = _entry(file, metadata, 32, VHDX_PAGE83, "<16xI")
    file.seek(metadata + item)
    file.write(uuid.uuid5(unique, "disk").bytes_le)


def _vhd(file: IO[bytes], unique: uuid.UUID, epoch: int) -> None:
    """The footer, and the copy that a dynamic disk has."""
    end = file.seek(-VHD_FOOTER, 2)
    footer = bytearray(file.read(VHD_FOOTER))
    struct.pack_into(">I", footer, VHD_TIME, max(epoch - YEAR_2000, 0))
    footer[VHD_IDENTIFIER : VHD_IDENTIFIER + 16] = unique.bytes
    struct.pack_into(">I", footer, VHD_CHECKSUM, vhd_checksum(footer))
    dynamic = int.from_bytes(footer[VHD_TYPE : VHD_TYPE + 4], "big") == VHD_DYNAMIC
    for offset in (0, end) if dynamic else (end,):
        file.seek(offset)
        file.write(footer)


def vhd_checksum(footer: bytes | bytearray) -> int:
    """The one's complement of the sum of all bytes but those of the sum itself (the same specification)."""
    return ~(sum(footer) - sum(footer[VHD_CHECKSUM : VHD_CHECKSUM + 4])) & 0xFFFFFFFF


def _entry(file: IO[bytes], table: int, first: int, name: bytes, layout: str) -> int:
    """The offset that the entry *name* of a table tells; entries have 32 bytes."""
    file.seek(table)
    data = file.read(64 << 10)
    position = next(n for n in range(first, len(data), 32) if data[n : n + 16] == name)
    return int(struct.unpack_from(layout, data, position)[0])


def crc32c(data: bytes | bytearray) -> int:
    """The checksum of a few bytes (RFC 3720, appendix B.4)."""
    table, value = _crc_table(), 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return tuple(found)


_KINDS: Mapping[str, Callable[[IO[bytes], uuid.UUID], None]] = MappingProxyType(
    {"vdi": _vdi, "vmdk": _vmdk, "vhdx": _vhdx}
)
