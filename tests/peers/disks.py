"""Disk images read by programs that share no code with QEMU."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.peers.tools import tool

BLOCK = 1 << 20


class Refused(Exception):
    """A program does not take the image; the text is what it says."""


def same(disk: Path, image: Path) -> bool:
    """Whether dissect.hypervisor, which is Python, reads in *image* (VMDK, VHDX) what the raw *disk* holds.

    :raises Refused: it does not read it
    """
    from dissect.hypervisor.disk.vhdx import VHDX
    from dissect.hypervisor.disk.vmdk import VMDK

    with disk.open("rb") as raw, image.open("rb") as file:
        try:
            opened = VHDX(file) if image.suffix == ".vhdx" else VMDK(image)
            while block := raw.read(BLOCK):
                if opened.read(len(block)) != block:
                    return False
        except Exception as error:  # it has no class of its own for a wrong image
            raise Refused(str(error)) from error
    return True


def unpacked(image: Path, kind: str, directory: Path) -> Path:
    """The raw disk that 7-Zip finds in *image*, a file of the *kind* ``vmdk``, ``vdi`` or ``vhdx``; in *directory*.

    :raises Refused: it finds something wrong
    """
    done = subprocess.run(
        [tool("7zz"), "x", f"-t{kind}", "-y", f"-o{directory}", image], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stdout + done.stderr)
    (found,) = directory.iterdir()
    return found
