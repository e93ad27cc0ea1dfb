"""extlinux: what it reads, what it can read it from, and where guests have it.

Sources: syslinux's doc/syslinux.txt (the configuration) and doc/extlinux.txt, mbr/gptmbr.S (the partition that a GPT
marks), and what Debian's 6.04 did in QEMU.
"""

from __future__ import annotations

from collections.abc import Sequence

from sfvm.bundle.disk import grub
from sfvm.bundle.disk.layout import Layout, Part

NAME = "extlinux"
DIRECTORY = "extlinux"
"""In the guest's /boot: the loader and its configuration."""
READABLE = ("ext4", "btrfs", "vfat")
"""It wants files that are neither compressed nor encrypted, on a partition of its own, on one device."""
PROGRAMS = ("/usr/bin/extlinux", "/usr/sbin/extlinux", "/sbin/extlinux")
CODE = {"mbr": "mbr.bin", "gpt": "gptmbr.bin"}
"""What stands in the first sector, by the partition table: it goes on with the partition that is marked."""
HOMES = ("/usr/lib/EXTLINUX", "/usr/lib/syslinux/mbr", "/usr/share/syslinux", "/usr/lib/syslinux/bios")
"""Where Debian's extlinux, its syslinux-common, Fedora and Arch have that."""


def part(layout: Layout) -> Part | None:
    """The part that extlinux is on: /boot, or else the root; None if the disk boots otherwise."""
    return (layout.boot_part or layout.root) if layout.boot.loader == NAME else None


def home(part: Part) -> str:
    """Its directory, on the filesystem of *part*."""
    return f"/{DIRECTORY}" if part.mount == "/boot" else f"/boot/{DIRECTORY}"


def configuration(
    directory: str, boot: Sequence[str], title: str, consoles: Sequence[str], words: str, timeout: int
) -> str:
    """extlinux.conf for the kernels among the files *boot*, which it finds in *directory* of its filesystem; *words*
    are their arguments, *timeout* is in seconds."""
    versions = grub.kernels(boot)
    lines = ["# Made by sfvm: the kernels that were there then."]
    if any(name.startswith("ttyS") for name in consoles):
        lines.append("SERIAL 0 115200")
    lines += [f"DEFAULT {version}" for version in versions[:1]]
    lines += [f"PROMPT {int(timeout > 0)}", f"TIMEOUT {timeout * 10}"]  # in tenths of a second; 0 would be for ever
    for version in versions:
        lines += [
            f"LABEL {version}",
            f"  MENU LABEL {title}, Linux {version}",
            f"  LINUX {directory}/vmlinuz-{version}",
        ]
        if (found := grub.initrd(version, boot)) is not None:
            lines.append(f"  INITRD {directory}/{found}")
        lines.append(f"  APPEND {words}")
    return "\n".join(lines) + "\n"
