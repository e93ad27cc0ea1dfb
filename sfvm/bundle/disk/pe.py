"""Programs for UEFI firmware with more sections: so a unified kernel image is put together (Microsoft, "PE Format")."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HEADER_AT = 0x3C
"""Where the offset of the PE header stands."""
SECTION = struct.Struct("<8sIIIIIIHHI")
"""Name, virtual size, address, raw size, raw offset, relocations, line numbers, their counts, flags."""
READABLE = 0x40000040
"""Initialized data that can be read."""
PAGE = 4096


@dataclass(frozen=True)
class Section:
    """What a section is to hold: the file *content*, or its bytes."""

    name: str
    content: Path | bytes

    @property
    def size(self) -> int:
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)

    def blocks(self) -> Iterator[bytes]:
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb") as source:
            while data := source.read(1 << 20):
                yield data


def append(stub: bytes, sections: Sequence[Section], target: Path) -> None:
    """Write *target*: the program *stub* with *sections* after its own, in order, each on pages of its own. The stub's
    symbols are dropped.

    :raises ValueError: the stub is no such program, or has no room for the headers
    """
    start = struct.unpack_from("<I", stub, HEADER_AT)[0] if len(stub) >= 1024 else 0
    if stub[:2] != b"MZ" or stub[start : start + 4] != b"PE\0\0":
        raise ValueError("it is no program for UEFI")
    count, symbols, optional = struct.unpack_from("<6xH4xI4xH", stub, start)
    alignment, room = struct.unpack_from("<I20xI", stub, start + 24 + 36)
    table = start + 24 + optional
    if table + (count + len(sections)) * SECTION.size > room:
        raise ValueError("its headers have no room for more sections")
    own = [SECTION.unpack_from(stub, table + number * SECTION.size) for number in range(count)]
    address = _up(max(entry[2] + max(entry[1], entry[3]) for entry in own), PAGE)
    body = stub[: symbols or len(stub)]
    head, offset, places = bytearray(stub[:room]), _up(len(body), alignment), []
    for number, section in enumerate(sections, count):
        size = _up(section.size, alignment)
        entry = (section.name.encode(), section.size, address, size, offset, 0, 0, 0, 0, READABLE)
        SECTION.pack_into(head, table + number * SECTION.size, *entry)
        places.append(offset)
        address, offset = _up(address + section.size, PAGE), offset + size
    struct.pack_into("<H", head, start + 6, count + len(sections))
    struct.pack_into("<II", head, start + 12, 0, 0)  # no symbols
    struct.pack_into("<I", head, start + 24 + 56, address)  # SizeOfImage
    struct.pack_into("<I", head, start + 24 + 64, 0)  # no checksum: firmware looks at it in drivers only
    with target.open("xb") as file:
        file.write(bytes(head) + body[room:])
        for section, place in zip(sections, places, strict=True):
            file.seek(place)
            for data in section.blocks():
                file.write(data)
        file.truncate(offset)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
