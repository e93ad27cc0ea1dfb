"""What firmware and boot sectors read: GRUB's images and the EFI system partition. Made on the host, of the host's GRUB
and without anything of the guest, by programs that need no privileges: in a helper VM without KVM that took a second.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from sfvm.bundle.disk import efi, grub
from sfvm.bundle.disk.layout import Layout
from sfvm.bundle.finished import BOOT_IMAGE, CORE_IMAGE, part_file
from sfvm.bundle.programs import find
from sfvm.errors import BundleError

MKIMAGE = ("grub-mkimage", "grub2-mkimage")
"""As Debian and Fedora call it."""
MODULES = Path("/usr/lib/grub")
"""GRUB's own directory, with one for each platform."""


def make(
    layout: Layout, home: grub.Home, esp: str, epoch: int, directory: Path, system: efi.System | None = None
) -> None:
    """What a disk of *layout* boots by, as files of *directory* (see :class:`sfvm.bundle.finished.Finished`). GRUB's
    files are at *home*, *esp* is the identifier of the EFI system partition, eight hexadecimal digits, *epoch* the
    time of its files, in seconds; *system* is what a loader starts that can read nothing else.

    :raises BundleError: a program or a file of GRUB's is missing on the host, or fails
    """
    with tempfile.TemporaryDirectory(dir=directory) as name:
        work = Path(name)
        early, tree = work / "early.cfg", work / "esp"
        early.write_text(grub.early_configuration(home), encoding="ascii")
        images = {grub.BIOS: directory / CORE_IMAGE, grub.UEFI: tree / "EFI" / "BOOT" / "BOOTX64.EFI"}
        tree.mkdir()
        for platform in grub.platforms(layout):
            images[platform].parent.mkdir(parents=True, exist_ok=True)
            run(epoch, MKIMAGE, *grub.mkimage(platform, early, images[platform]))
        if system is not None:
            efi.tree(layout, system, tree)
        if grub.BIOS in grub.platforms(layout):
            (directory / BOOT_IMAGE).write_bytes(_boot_image())
        for number, part in enumerate(layout.parts):
            if part.kind == "esp":
                _esp(part_file(directory, number), efi.size_of(part, tree), esp, tree, epoch)


def _esp(target: Path, size: int, identifier: str, tree: Path, epoch: int) -> None:
    """An EFI system partition with the files of *tree*: in the order of their names, not in that of the host."""
    with target.open("xb") as file:
        file.truncate(size)
    # Before dosfstools 4.3 nothing but --invariant keeps the time out; what follows it holds all the same.
    run(epoch, ("mkfs.vfat",), "--invariant", "-F", "32", "-n", "ESP", "-i", identifier, target)
    directories = sorted(path for path in tree.rglob("*") if path.is_dir())
    if directories:
        run(epoch, ("mmd",), "-i", target, *(f"::{path.relative_to(tree)}" for path in directories))
    for directory in directories:
        if files := sorted(path for path in directory.iterdir() if path.is_file()):
            run(epoch, ("mcopy",), "-i", target, *files, f"::{directory.relative_to(tree)}")


def _boot_image() -> bytes:
    path = MODULES / grub.BIOS / "boot.img"
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read", why=error.strerror, hint="./bootstrap installs GRUB") from error


def run(epoch: int, names: tuple[str, ...], *arguments: str | Path) -> None:
    """Run the first program of *names* that there is; mtools and mkfs.vfat take *epoch* for the time.

    :raises BundleError: there is none, or it fails
    """
    program = find(*names)
    if program is None:
        raise BundleError(f"{names[0]} cannot be run", hint="./bootstrap installs it")
    # A user's mtools.conf is not for us.
    environment = {**os.environ, "LC_ALL": "C", "MTOOLSRC": os.devnull, "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run([program, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise BundleError(f"{names[0]} failed", why=lines[-1] if lines else f"exit status {done.returncode}")
