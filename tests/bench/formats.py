"""Formats: what sfvm writes itself, against qemu-img."""

from __future__ import annotations

import os
import random
from pathlib import Path

from sfvm.bundle.hashing import HashingFile
from sfvm.bundle.vmdk import Descriptor, write_stream
from tests.bench.measure import Bench, Result, alternately, command

MIB = 1 << 20
TEXTS, NOISE, ROOM = 240 * MIB, 60 * MIB, 2 << 30
"""Bytes of programs and libraries of this machine, of what cannot be compressed, and of the sparse disk around them."""


def formats(bench: Bench) -> list[Result]:
    """A streamOptimized VMDK of a disk with 300 MB of mixed data, its digest included in ours."""
    disk, mine, theirs = (bench.home / name for name in ("disk.raw", "mine.vmdk", "theirs.vmdk"))
    _mixed(disk)

    def ours() -> None:
        with mine.open("wb") as file:
            write_stream(disk, HashingFile(file), Descriptor(mine.name, "lsilogic", 14, 1), lambda done: None)

    options = ("-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized")
    convert = command(["qemu-img", "convert", *options, disk, theirs])
    seconds = alternately([ours, convert], 3)
    return [Result("a stream of VMDK / qemu-img convert", *seconds, 0.7)]


def _mixed(disk: Path) -> None:
    """Files as a guest has them, some of which cannot be compressed."""
    found = (Path(root) / name for root, _, names in os.walk("/usr/lib") for name in sorted(names))
    files = (path for path in found if path.is_file() and not path.is_symlink())
    noise = random.Random(1)
    with disk.open("wb") as target:
        target.truncate(ROOM)
        target.seek(MIB)
        while target.tell() < TEXTS:
            data = next(files).read_bytes()[: 8 * MIB]
            target.write(data.ljust(-(-len(data) // 4096) * 4096, b"\0"))
        for _ in range(NOISE // MIB):
            target.write(noise.randbytes(MIB))
