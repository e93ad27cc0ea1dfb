"""Debian packages with their content decompressed: natively that is cheap, under QEMU's emulation it is a large part
of an installation.

deb(5): an ar archive (ar(5): headers of 60 bytes, contents padded to even sizes) with the members ``debian-binary``,
``control.tar…`` and ``data.tar``, plain or compressed. Only the last is changed; members after it are ignored by dpkg,
so one of them can be padding.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

ALIGNMENT = 4096
"""Results are a multiple of so many bytes long: they can be read with direct I/O."""
MAX_SIZE = 2 << 30
"""A larger content stays compressed: xz makes a gigabyte from kilobytes."""
MEMORY = 256 << 20
"""So much memory one decompression may take; xz -9 wants 65 MiB, zstd --ultra 128."""
BLOCK = 1 << 20
ZSTD_INPUT = 1 << 10
"""Its output cannot be limited, but 4 bytes of input make no more than 128 KiB (RFC 8878)."""
MAGIC = b"!<arch>\n"
HEADER = 60
MEMBERS = 8


class NotUnpacked(Exception):
    """It is no package, is not compressed, or would be too large."""


def unpack(package: BinaryIO, put: Callable[[int, bytes], None]) -> int:
    """Give the unpacked form of *package* to *put*, piece by piece with each one's offset; return its length.

    :raises NotUnpacked: it has none; some pieces may have been given by then
    """
    if package.read(len(MAGIC)) != MAGIC:
        raise NotUnpacked("it is no ar archive")
    offset = len(MAGIC)
    put(0, MAGIC)
    for _ in range(MEMBERS):
        header = package.read(HEADER)
        name, size = _member(header)
        if name.startswith("data.tar"):
            break
        body = package.read(size + size % 2) if size <= BLOCK * 16 else b""
        if len(body) != size + size % 2:
            raise NotUnpacked("it is cut off, or its control member is very large")
        put(offset, header + body)
        offset += HEADER + len(body)
    else:
        raise NotUnpacked("it has too many members before its content")
    length = 0
    for piece in _plain(package, size, name.removeprefix("data.tar")):
        length += len(piece)
        if length > MAX_SIZE:
            raise NotUnpacked("its content is very large")
        put(offset + HEADER + length - len(piece), piece)
    put(offset, b"data.tar".ljust(16) + header[16:48] + str(length).encode().ljust(10) + header[58:])
    offset += HEADER + length
    if length % 2:
        put(offset, b"\n")
        offset += 1
    padding = -(offset + HEADER) % ALIGNMENT
    put(offset, b"_padding".ljust(16) + header[16:48] + str(padding).encode().ljust(10) + header[58:] + bytes(padding))
    return offset + HEADER + padding


def _member(header: bytes) -> tuple[str, int]:
    """Name and size of an ar member; GNU ar ends names with a slash."""
    try:
        if len(header) != HEADER or header[58:] != b"`\n":
            raise ValueError
        return header[:16].decode("ascii").rstrip(" ").removesuffix("/"), int(header[48:58].decode("ascii"))
    except ValueError:
        raise NotUnpacked("it is no ar archive") from None


def _plain(package: BinaryIO, size: int, suffix: str) -> Iterator[bytes]:
    """The next *size* bytes of *package*, decompressed as *suffix* says.

    :raises NotUnpacked: they are damaged, cut off, or of an unknown kind
    """
    try:
        if suffix in (".xz", ".lzma", ".bz2"):
            yield from _steadily(
                bz2.BZ2Decompressor() if suffix == ".bz2" else lzma.LZMADecompressor(memlimit=MEMORY), package, size
            )
        elif suffix == ".gz":
            yield from _deflated(package, size)
        elif suffix == ".zst":
            yield from _zstd(package, size)
        else:
            raise NotUnpacked(f"its content is not compressed in a known way ({suffix[:8]!r})")
    except (lzma.LZMAError, zlib.error, OSError, EOFError) as error:
        raise NotUnpacked(f"its content is damaged ({error})") from error


def _input(package: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0:
        block = package.read(min(BLOCK, size))
        if not block:
            raise NotUnpacked("it is cut off")
        size -= len(block)
        yield block


def _steadily(
    decompressor: bz2.BZ2Decompressor | lzma.LZMADecompressor, package: BinaryIO, size: int
) -> Iterator[bytes]:
    for block in _input(package, size):
        if decompressor.eof:
            raise NotUnpacked("something follows its content")
        yield decompressor.decompress(block, BLOCK)
        while not decompressor.needs_input and not decompressor.eof:
            yield decompressor.decompress(b"", BLOCK)
    if not decompressor.eof or decompressor.unused_data:
        raise NotUnpacked("it is cut off, or something follows its content")


def _deflated(package: BinaryIO, size: int) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(wbits=31)  # with gzip's header
    for block in _input(package, size):
        if decompressor.eof:
            raise NotUnpacked("something follows its content")
        yield decompressor.decompress(block, BLOCK)
        while decompressor.unconsumed_tail:
            yield decompressor.decompress(decompressor.unconsumed_tail, BLOCK)
    yield decompressor.flush()
    if not decompressor.eof or decompressor.unused_data:
        raise NotUnpacked("it is cut off, or something follows its content")


def _zstd(package: BinaryIO, size: int) -> Iterator[bytes]:
    import zstandard

    decompressor = zstandard.ZstdDecompressor(max_window_size=MEMORY // 2).decompressobj()
    try:
        for block in _input(package, size):
            for start in range(0, len(block), ZSTD_INPUT):
                if decompressor.eof:
                    raise NotUnpacked("something follows its content")
                yield decompressor.decompress(block[start : start + ZSTD_INPUT])
    except zstandard.ZstdError as error:
        raise NotUnpacked(f"its content is damaged ({error})") from error
    if not decompressor.eof or decompressor.unused_data:
        raise NotUnpacked("it is cut off, or something follows its content")
