"""The kernel inside a bzImage, unpacked: for loaders that do not know how it is compressed."""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping

from sfvm.bundle.kernel import compression, payload

MOST = 96 << 20
"""Bytes of an unpacked kernel; a hostile one does not fill the memory."""
ZSTD_WINDOW = 1 << 27
"""Bytes that ``zstd -22 --ultra``, by which kernels are compressed, refers back at most."""
ELF = b"\x7fELF"
LZ4_BLOCK = 8 << 20
"""Bytes that a block of LZ4's legacy format has at most (``doc/lz4_Frame_format.md`` of LZ4)."""


class Packed(Exception):
    """A kernel that cannot be unpacked; the text says why."""


def vmlinux(image: bytes) -> bytes:
    """The ELF file in the bzImage *image*.

    :raises Packed: there is none, or nothing here reads it
    """
    kind = compression(image)
    if not kind:
        raise Packed("it is no bzImage")
    if kind not in _UNPACK:
        raise Packed(f"nothing here reads a kernel compressed with {kind}")
    try:
        found = _UNPACK[kind](payload(image))
    except (OSError, EOFError, ValueError, struct.error, zlib.error, lzma.LZMAError) as error:
        raise Packed(f"its {kind} data is damaged: {error}") from error
    if not found.startswith(ELF):
        raise Packed("what is in it is no ELF file")
    if len(found) >= MOST:
        raise Packed(f"it is larger than {MOST >> 20} MiB")
    return found


# What the kernel's build appends to the compressed data, its size, is left alone by every one of these.


def _gzip(data: bytes) -> bytes:
    return zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, MOST)


def _bzip2(data: bytes) -> bytes:
    return bz2.BZ2Decompressor().decompress(data, MOST)


def _xz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data, MOST)


def _zstd(data: bytes) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).stream_reader(data).read(MOST)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error


def _lz4(data: bytes) -> bytes:
    """The legacy format: after its magic number, blocks that each say how long they are."""
    try:
        from lz4.block import LZ4BlockError, decompress
    except ImportError:
        raise Packed("it is compressed with LZ4, for which Python's lz4 is missing: pip install 'sfvm[lz4]'") from None
    found, position = bytearray(), 4
    while position + 8 <= len(data) and len(found) < MOST:
        (length,) = struct.unpack_from("<I", data, position)
        position += 4
        try:
            found += decompress(data[position : position + length], uncompressed_size=LZ4_BLOCK)
        except LZ4BlockError as error:
            raise ValueError(str(error)) from error
        position += length
    return bytes(found)


_UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": _gzip,
    "bzip2": _bzip2,
    "xz": _xz,
    "lzma": _xz,
    "zstd": _zstd,
    "lz4": _lz4,
}
