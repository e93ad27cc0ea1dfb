"""GRUB on a disk image without running it there: what its images are made of, and their places: arithmetic.

Sources: GRUB's ``include/grub/i386/pc/boot.h`` (offsets in boot.img), ``grub-core/boot/i386/pc/diskboot.S`` (the block
list at the end of the first sector of core.img), and ``util/setup.c``, which does the same on a running system.
"""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfvm.bundle.disk.layout import Layout

KERNEL_SECTOR = 0x5C
"""Offset in boot.img of the sector, 64-bit little-endian, that core.img begins at."""
DRIVE_CHECK = 0x66
"""Offset in boot.img of a jump that only floppies need; no-ops make it trust the BIOS's drive number."""
BLOCK_LIST = 500
"""Offset in core.img of the block list: start sector (64 bit), sectors (16 bit), segment (16 bit)."""
LOAD_SEGMENT = 0x820
SECTOR = 512
BIOS, UEFI = "i386-pc", "x86_64-efi"

_MODULES = (
    "normal boot linux configfile search search_fs_uuid part_gpt part_msdos ext2 xfs btrfs f2fs fat lvm mdraid1x echo "
    "test true ls cat "
    "serial terminal minicmd reboot halt loadenv gzio all_video"
)
MODULES = {BIOS: f"biosdisk {_MODULES}", UEFI: _MODULES}
"""What is in the images, by platform."""


def boot_code(boot: bytes, core_sector: int) -> bytes:
    """The first 440 bytes of the disk: boot.img that loads core.img from *core_sector*."""
    code = bytearray(boot[:440])
    code[KERNEL_SECTOR : KERNEL_SECTOR + 8] = struct.pack("<Q", core_sector)
    code[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(code)


def place_core(core: bytes, core_sector: int, room: int) -> bytes:
    """core.img for the place *core_sector*, padded to whole sectors.

    :raises ValueError: it is larger than *room* bytes
    """
    if len(core) > room:
        raise ValueError(f"core.img has {len(core)} bytes, its partition {room}")
    sectors = -(-len(core) // SECTOR)
    placed = bytearray(core.ljust(sectors * SECTOR, b"\0"))
    placed[BLOCK_LIST:SECTOR] = struct.pack("<QHH", core_sector + 1, sectors - 1, LOAD_SEGMENT)
    return bytes(placed)


@dataclass(frozen=True)
class Home:
    """Where GRUB finds what is in the guest's /boot: *directory* of the filesystem *uuid*."""

    uuid: str
    directory: str = "/boot"


def early_configuration(home: Home) -> str:
    """What GRUB runs first, embedded in its images: find its filesystem, go on with its grub.cfg."""
    return f"search.fs_uuid {home.uuid} root\nset prefix=($root){home.directory}/grub\n"


def kernels(names: Iterable[str]) -> tuple[str, ...]:
    """The versions of the kernels among the file *names* of /boot (``vmlinuz-VERSION``), newest first."""
    versions = [name.removeprefix("vmlinuz-") for name in names if name.startswith("vmlinuz-")]
    return tuple(sorted(versions, key=_ordering, reverse=True))


def initrd(version: str, names: Iterable[str]) -> str | None:
    """The initramfs of the kernel *version* among the file *names* of /boot, as distributions call it."""
    usual = (f"initrd.img-{version}", f"initramfs-{version}.img", f"initramfs-{version}", f"initrd-{version}")
    there = set(names)
    return next((name for name in usual if name in there), None)


def _ordering(version: str) -> list[tuple[int, int, str]]:
    """Numbers as numbers; a release candidate comes before its release."""
    parts = re.split(r"[.\-_+~]", version)
    words = [(2, int(p), "") if p.isdigit() else (-1 if p.startswith("rc") else 1, 0, p) for p in parts]
    return [*words, (0, 0, "")]


def arguments(consoles: Sequence[str], more: str = "") -> str:
    """The kernel's arguments for *consoles* (the last one becomes /dev/console)."""
    words = [f"console={name},115200n8" if name.startswith("ttyS") else f"console={name}" for name in consoles]
    return " ".join([*words, more]).strip()


def configuration(
    home: Home, boot: Sequence[str], title: str, consoles: Sequence[str], words: str, timeout: int
) -> str:
    """grub.cfg for the kernels in /boot, which is at *home* and has the files *boot*; *words* are their arguments."""
    lines = ["# Made by sfvm; update-grub replaces it.", f"set timeout={timeout}", "set default=0"]
    if any(name.startswith("ttyS") for name in consoles):
        lines += [
            "if serial --unit=0 --speed=115200; then",
            "  terminal_input console serial",
            "  terminal_output console serial",
            "fi",
        ]
    quoted = title.replace("'", "")  # GRUB's single quotes have no escape
    for version in kernels(boot):
        lines += [
            f"menuentry '{quoted}, Linux {version}' {{",
            f"  search.fs_uuid {home.uuid} root",
            f"  linux {home.directory}/vmlinuz-{version} {words}",
        ]
        if (found := initrd(version, boot)) is not None:
            lines.append(f"  initrd {home.directory}/{found}")
        lines.append("}")
    return "\n".join(lines) + "\n"


def defaults(consoles: Sequence[str], more: str, timeout: int) -> str:
    """/etc/default/grub.d/sfvm.cfg: so that update-grub in the running system keeps console and arguments."""
    lines = [f"GRUB_TIMEOUT={timeout}", f"GRUB_CMDLINE_LINUX={shlex.quote(arguments(consoles, more))}"]
    if any(name.startswith("ttyS") for name in consoles):
        lines += ['GRUB_TERMINAL="console serial"', 'GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"']
    return "\n".join(lines) + "\n"


def platforms(layout: Layout) -> tuple[str, ...]:
    """The platforms that a disk of *layout* can boot by."""
    if layout.boot.loader != "grub":
        return ()
    bios = layout.table == "mbr" or layout.part("bios-boot")
    return (*([BIOS] if bios else []), *([UEFI] if layout.part("esp") else []))


def mkimage(platform: str, early: Path, target: Path) -> tuple[str, ...]:
    """grub-mkimage's arguments for *target*, the image of *platform*, whose early configuration is the file *early*."""
    return ("-O", platform, "-o", str(target), "-p", "/boot/grub", "-c", str(early), *MODULES[platform].split())
