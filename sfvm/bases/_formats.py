"""Formats of disk images, told by their bytes: QEMU is never left to guess, and opens no image that names another file.

Formats: ``docs/interop/qcow2.txt`` and ``block/`` of QEMU; VMware's "Virtual Disk Format 5.0" (VMDK); Microsoft's
"Virtual Hard Disk Image Format Specification" (VHD).
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import BinaryIO

from sfvm import qcow2
from sfvm.errors import Place, SfvmError, SpecError

VMDK_DESCRIPTOR = 512, 20 * 512
"""Where QEMU looks for the text that may name a parent, whatever the header says: offset and bytes."""
VMDK_WHOLE = ("monolithicsparse", "streamoptimized")
"""The types of VMDK that are one file."""
MAX_SECTOR = 1 << 32
"""No file is so long; what lies behind is nothing."""
MAGIC = {
    b"KDMV": "vmdk",
    b"vhdxfile": "vhdx",
    b"conectix": "vpc",
    b"<<< ": "vdi",
    qcow2.MAGIC: "qcow2",
}
DYNAMIC = 3
"""The type of a VHD that is one file and not raw; 4 has a parent."""
REFUSED = {
    b"COWD": "an old VMDK",
    b"QED\0": "a QED image",
    b"# Disk DescriptorFile": "a VMDK that only names other files",
    b"\xfd7zXZ": "compressed (xz -d)",
    b"\x1f\x8b": "compressed (gzip -d)",
    b"BZh": "compressed (bzip2 -d)",
    b"\x28\xb5\x2f\xfd": "compressed (zstd -d)",
}


def identify(path: Path, name: str, place: Place) -> str:
    """The format of the image at *path* as QEMU calls it, ``raw`` when nothing tells another.

    :raises SpecError: an image that QEMU must not open: it needs or names other files, or cannot be one
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
            for magic, what in REFUSED.items():
                if start.startswith(magic):
                    raise _refused(name, f"it is {what}", place)
            found = next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "raw")
            if found == "vmdk":
                _check_vmdk(file, name, place)
        if found == "vpc" and (len(start) < 64 or struct.unpack_from(">I", start, 60)[0] != DYNAMIC):
            raise _refused(name, "it is a VHD over a parent, or none", place)
        if found == "qcow2":
            qcow2.require_standalone(path)
    except OSError as error:
        raise SpecError(f"{name} cannot be read", place=place, why=error.strerror) from error
    except SpecError:
        raise
    except SfvmError as error:
        raise SpecError(error.what.replace(str(path), name), place=place, why=error.why, hint=error.hint) from error
    return found


def _check_vmdk(file: BinaryIO, name: str, place: Place) -> None:
    """:raises SpecError: it is more than one file"""
    file.seek(0)
    header = file.read(512)
    if len(header) < 512:
        raise _refused(name, "its header is cut off", place)
    capacity, _, at, size = struct.unpack_from("<QQQQ", header, 12)
    if not capacity:  # then QEMU takes the extents that the descriptor names
        raise _refused(name, "it only names other files", place)
    texts = b""
    for offset, count in (VMDK_DESCRIPTOR, (min(at, MAX_SECTOR) * 512, min(size * 512, VMDK_DESCRIPTOR[1]))):
        file.seek(offset)
        texts += file.read(count).lower() + b"\n"
    if b"parentfilenamehint" in texts:
        raise _refused(name, "it names a parent, which would be read", place)
    kinds = {kind.decode() for kind in re.findall(rb'createtype\s*=\s*"([a-z0-9]*)"', texts)}
    if kinds - {*VMDK_WHOLE}:
        raise _refused(name, f"it is of the type {', '.join(sorted(kinds))}", place)


def _refused(name: str, why: str, place: Place) -> SpecError:
    return SpecError(
        f"{name} is refused",
        place=place,
        why=why,
        hint="make it one plain file where it comes from: qemu-img convert -O qcow2",
    )
