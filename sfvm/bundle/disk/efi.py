"""The loaders that read nothing but the EFI system partition: systemd-boot, and unified kernel images.

Sources: the UAPI group's Boot Loader Specification (entries, their fields) and Unified Kernel Image specification
(sections); systemd-boot(7), systemd-stub(7), kernel-install(8).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sfvm.bundle.disk import pe
from sfvm.bundle.disk.layout import MIB, Layout, Part
from sfvm.errors import BundleError

LOADERS = ("systemd-boot", "uki")
HOME = "/usr/lib/systemd/boot/efi"
"""Where systemd's programs for UEFI are, in guests and on hosts."""
PROGRAM = {"systemd-boot": "systemd-bootx64.efi", "uki": "linuxx64.efi.stub"}
DEFAULT = Path("EFI/BOOT/BOOTX64.EFI")
"""What firmware starts of a disk that it does not know (UEFI Specification 2.10, 3.5.1.1)."""


@dataclass(frozen=True)
class System:
    """What is started: the kernel's *version*, its files and *arguments*, the guest's *release* (os-release(5)), and
    systemd's *program* for the loader."""

    version: str
    vmlinuz: Path
    initrd: Path | None
    arguments: str
    release: str
    program: Path


def token(release: str) -> str:
    """The directory of the guest's kernels on the partition (``/etc/kernel/entry-token``, kernel-install(8))."""
    return _value(release, "ID") or "linux"


def _value(release: str, name: str) -> str:
    """A value of os-release(5), without its quotes; "" when it has none."""
    for line in release.splitlines():
        key, _, value = line.partition("=")
        if key == name:
            return value.strip().strip("\"'")
    return ""


def tree(layout: Layout, system: System, target: Path) -> None:
    """Make the files of the EFI system partition in *target*.

    :raises BundleError: systemd's program cannot hold the kernel
    """
    (target / DEFAULT).parent.mkdir(parents=True)
    if layout.boot.loader == "uki":
        _unified(system, target / DEFAULT)
    else:
        _entry(layout, system, target)


def _unified(system: System, target: Path) -> None:
    sections = [
        pe.Section(".osrel", system.release.encode()),
        pe.Section(".cmdline", system.arguments.encode()),
        pe.Section(".uname", system.version.encode()),
        *([pe.Section(".initrd", system.initrd)] if system.initrd else []),
        pe.Section(".linux", system.vmlinuz),  # the last one: it is unpacked in place, and grows
    ]
    try:
        pe.append(system.program.read_bytes(), sections, target)
    except ValueError as error:
        raise BundleError("a unified kernel image cannot be made", why=f"{system.program.name}: {error}") from error


def _entry(layout: Layout, system: System, target: Path) -> None:
    shutil.copyfile(system.program, target / DEFAULT)
    own = token(system.release)
    home = Path(own) / system.version
    (target / home).mkdir(parents=True)
    os.link(system.vmlinuz, target / home / "linux")
    lines = [
        f"title {_value(system.release, 'PRETTY_NAME') or 'Linux'}",
        f"version {system.version}",
        f"sort-key {own}",
        f"options {system.arguments}",
        f"linux /{home}/linux",
    ]
    if system.initrd is not None:
        os.link(system.initrd, target / home / "initrd")
        lines.append(f"initrd /{home}/initrd")
    loader = target / "loader"
    (loader / "entries").mkdir(parents=True)
    name = f"{own}-{system.version}.conf"
    (loader / "entries" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    (loader / "loader.conf").write_text(f"timeout {layout.boot.timeout}\ndefault {name}\n", encoding="utf-8")


def size_of(part: Part, tree: Path) -> int:
    """Bytes of the EFI system partition *part* with the files below *tree*: as the layout says, else with room for one
    more kernel, so that the guest can update its own.

    :raises BundleError: the layout says less than they need
    """
    needed = sum(path.stat().st_size for path in tree.rglob("*"))
    least = -(-(needed + needed // 50 + 2 * MIB) // MIB) * MIB  # the file allocation tables take less than 2 %
    if part.size is None:
        return max(64 * MIB, 2 * least)
    if part.size < least:
        raise BundleError(
            "the EFI system partition is too small for the kernel",
            place=part.place,
            why=f"kernel, initramfs and boot loader need {least // MIB} MiB, it has {part.size // MIB} MiB",
            hint=f'<esp size="{least // MIB}M"/> or more; twice as much, if the guest is to update its kernel; '
            "or leave the size out",
        )
    return part.size
