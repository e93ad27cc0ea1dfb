"""What is known of a guest's kernel, read from its files without running it: pure functions of their bytes."""

from __future__ import annotations

import gzip
import lzma
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"\x89LZO": "lzo",
    b"\x02\x21\x4c\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
}
"""How compressed data begins (Linux, ``scripts/extract-vmlinux`` and ``lib/decompress.c``)."""
MOST_INITRAMFS = 1 << 30
"""Bytes of an unpacked initramfs that are looked at; a hostile one does not fill the memory."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a guest: its *version*; *options* (``XEN_PV`` to ``y`` or ``m``); the modules that are built in, that
    the guest has, and that its initramfs has; how the kernel image is compressed ("" when that cannot be told)."""

    version: str
    options: Mapping[str, str] = field(default_factory=dict)
    builtin: frozenset[str] = frozenset()
    modules: frozenset[str] = frozenset()
    initramfs: frozenset[str] = frozenset()
    compression: str = ""


def module(path: str) -> str:
    """The name of a module from its file: ``kernel/drivers/net/e1000.ko.xz`` is ``e1000``. As modprobe(8) has it, ``-``
    and ``_`` are the same."""
    return PurePosixPath(path.strip().partition(":")[0]).name.partition(".ko")[0].replace("-", "_")


def modules(listing: str) -> frozenset[str]:
    """The modules of a ``modules.dep`` or ``modules.builtin`` (modules.dep(5))."""
    return frozenset(module(line) for line in listing.splitlines() if ".ko" in line)


def options(config: str) -> dict[str, str]:
    """The options of a kernel's configuration (``/boot/config-VERSION``), without ``CONFIG_``."""
    return dict(re.findall(r"^CONFIG_(\w+)=(.*)$", config, flags=re.MULTILINE))


def compression(image: bytes) -> str:
    """How the payload of a bzImage is compressed; "" for what is no bzImage.

    Source: Linux, ``Documentation/arch/x86/boot.rst`` (setup_sects at 0x1f1, ``HdrS`` at 0x202, payload_offset and
    payload_length at 0x248).
    """
    found = payload(image)
    return next((name for magic, name in MAGIC.items() if found.startswith(magic)), "") if found else ""


def release(image: bytes) -> str:
    """The version that a bzImage tells, which its modules are filed under; "" where it tells none. The file's name may
    be another: ``vmlinuz-linux``.

    Source: Linux, ``Documentation/arch/x86/boot.rst`` (kernel_version at 0x20e, from 0x200 on).
    """
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        return ""
    (offset,) = struct.unpack_from("<H", image, 0x20E)
    word = image[0x200 + offset :][:128].partition(b"\0")[0].decode("ascii", errors="replace").partition(" ")[0]
    return word if offset and re.fullmatch(r"[0-9][\w.+~-]*", word) else ""


def payload(image: bytes) -> bytes:
    """The compressed kernel in a bzImage (Linux, ``Documentation/arch/x86/boot.rst``); empty for what is none."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        return b""
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (sectors + 1) * 512 + offset
    return image[start : start + length]


def initramfs_modules(data: bytes) -> frozenset[str]:
    """The modules in an initramfs: cpio archives (newc), the first ones plain (microcode), the last one compressed.

    Source: Linux, ``Documentation/driver-api/early-userspace/buffer-format.rst``. What cannot be read has no modules.
    """
    return frozenset(module(name) for name in initramfs_names(data) if ".ko" in name)


def initramfs_names(data: bytes) -> Iterator[str]:
    """The names of all files in an initramfs."""
    position = 0
    while position < len(data):
        if data[position : position + 4] == bytes(4):
            position += 4  # padding between archives
        elif data[position : position + 6] in (b"070701", b"070702"):
            names, end = _cpio(data, position)
            if end <= position:
                return
            position = end
            yield from names
        else:
            unpacked = _decompressed(data[position:])
            if unpacked[:6] in (b"070701", b"070702"):
                yield from initramfs_names(unpacked)
            return


def _cpio(data: bytes, position: int) -> tuple[list[str], int]:
    """The names in one archive, and where it ends (cpio(5), "New ASCII Format")."""
    names: list[str] = []
    while data[position : position + 6] in (b"070701", b"070702") and position + 110 <= len(data):
        head = data[position + 6 : position + 110]
        if not re.fullmatch(rb"[0-9A-Fa-f]{104}", head):  # int() takes a sign, too
            return names, len(data)
        fields = [int(head[8 * n : 8 * n + 8], 16) for n in range(13)]
        size, length = fields[6], fields[11]
        name = data[position + 110 : position + 110 + length - 1].decode(errors="replace")
        position = _up(position + 110 + length)
        position = _up(position + size)
        if name == "TRAILER!!!":
            break
        names.append(name)
    return names, position


def _up(position: int) -> int:
    return -(-position // 4) * 4


def _decompressed(data: bytes) -> bytes:
    kind = next((name for magic, name in MAGIC.items() if data.startswith(magic)), "")
    try:
        if kind == "zstd":
            import zstandard

            return zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read(MOST_INITRAMFS)
        if kind == "gzip":
            import io

            return gzip.GzipFile(fileobj=io.BytesIO(data)).read(MOST_INITRAMFS)
        if kind in ("xz", "lzma"):
            return lzma.LZMADecompressor().decompress(data, MOST_INITRAMFS)
    except (OSError, EOFError, lzma.LZMAError, ValueError):
        return b""
    except Exception as error:  # zstandard's own class, without importing it for nothing
        if type(error).__name__ != "ZstdError":
            raise
    return b""
