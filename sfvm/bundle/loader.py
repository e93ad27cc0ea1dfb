"""What firmware and boot sectors read: GRUB's images and the EFI system partition. Made on the host, of the host's GRUB
and without anything of the guest, by programs that need no privileges: in a helper VM without KVM that took a second.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sfvm.bundle import grub
from sfvm.bundle.layout import Layout
from sfvm.errors import BundleError

MKIMAGE = ("grub-mkimage", "grub2-mkimage")
"""As Debian and Fedora call it."""
MODULES = Path("/usr/lib/grub")
"""GRUB's own directory, with one for each platform."""


@dataclass(frozen=True)
class Loader:
    """The *esp* as a raw file, and GRUB's images for BIOS; what a layout does not want is left out."""

    esp: Path | None = None
    boot_image: bytes = b""
    core_image: bytes = b""


def make(layout: Layout, root_uuid: str, esp_id: str, work: Path) -> Loader:
    """What the disk of *layout* boots by; files go to *work*. *esp_id* are eight hexadecimal digits.

    :raises BundleError: a program or a file of GRUB's is missing on the host, or fails
    """
    early, core, tree, esp = (work / name for name in ("early.cfg", "core.img", "esp", "esp.img"))
    early.write_text(grub.early_configuration(root_uuid), encoding="ascii")
    images = {grub.BIOS: core, grub.UEFI: tree / "EFI" / "BOOT" / "BOOTX64.EFI"}
    tree.mkdir()
    platforms = grub.platforms(layout)
    for platform in platforms:
        images[platform].parent.mkdir(parents=True, exist_ok=True)
        run(MKIMAGE, *grub.mkimage(platform, early, images[platform]))
    if layout.esp:
        with esp.open("xb") as file:
            file.truncate(layout.esp)
        run(("mkfs.vfat",), "-F", "32", "-n", "ESP", "-i", esp_id, esp)
        if content := list(tree.iterdir()):
            run(("mcopy",), "-s", "-i", esp, *content, "::")
    bios = grub.BIOS in platforms
    return Loader(esp if layout.esp else None, _boot_image() if bios else b"", core.read_bytes() if bios else b"")


def _boot_image() -> bytes:
    path = MODULES / grub.BIOS / "boot.img"
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read", why=error.strerror, hint="./bootstrap installs GRUB") from error


def run(names: tuple[str, ...], *arguments: str | Path) -> None:
    """Run the first program of *names* that there is.

    :raises BundleError: there is none, or it fails
    """
    places = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # users' own often has no sbin
    program = next(filter(None, (shutil.which(name, path=places) for name in names)), None)
    if program is None:
        raise BundleError(f"{names[0]} cannot be run", hint="./bootstrap installs it")
    environment = {**os.environ, "LC_ALL": "C", "MTOOLSRC": os.devnull}  # a user's mtools.conf is not for us
    done = subprocess.run([program, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise BundleError(f"{names[0]} failed", why=lines[-1] if lines else f"exit status {done.returncode}")
