"""Boots a disk image in QEMU, under BIOS or UEFI, or a machine without a disk from its network, and watches the serial
console. The image is not changed."""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sfvm.appliance.profile import TCG, Profile
from sfvm.errors import SfvmError

BIOS, UEFI = "bios", "uefi"
FIRMWARE = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
)
"""UEFI firmware (code, variables) where Debian and Fedora install it."""

SCSI_DISK = "scsi-hd,drive=disk,bootindex=1"
CONTROLLERS = {
    "virtio": ("virtio-blk-pci,drive=disk,bootindex=1",),
    "virtio-scsi": ("virtio-scsi-pci", SCSI_DISK),
    "pvscsi": ("pvscsi", SCSI_DISK),
    "nvme": ("nvme,drive=disk,serial=sfvm,bootindex=1",),
    "ahci": ("ide-hd,drive=disk,bootindex=1",),
    "cd": ("ide-cd,drive=disk,bootindex=1",),
    "usb": ("qemu-xhci", "usb-storage,drive=disk,bootindex=1"),
}
"""How platforms attach a disk, as QEMU's devices: KVM; Google and Proxmox; VMware; Amazon; VirtualBox; a PC's CD and
USB stick."""

DEAD_ENDS = (
    "Kernel panic - not syncing",
    "grub rescue>",
    "No bootable device",
    "No bootable option or device was found",
    "You are in emergency mode",
    "BOOT FAILED!",
)
"""What a console shows when nothing more will come: SeaBIOS, OVMF, GRUB, Linux, systemd, live-boot."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-9;?=]*[A-Za-z]|[()][A-Z0-9]|[=>78c])")
LAST_LINES = 25


def boot(
    disk: Path,
    firmware: str,
    *,
    until: Sequence[str],
    deadline: float,
    memory: int = 1024,
    profile: Profile = TCG,
    format_: str | None = None,
    controller: str = "virtio",
    nic: str = "virtio-net-pci",
    answers: Mapping[str, str] = {},  # it is not changed
    log: Callable[[str], None] = lambda text: None,
) -> str:
    """Boot *disk* with *firmware* (``bios`` or ``uefi``) until the serial console has shown every text of *until*;
    return all it has shown, without escape sequences. *deadline* is seconds, *memory* MiB; *format_* is QEMU's name of
    the image's format, known from the suffix where that is ``.qcow2``, else raw. *controller* is one of
    :data:`CONTROLLERS`, *nic* a network device of QEMU's. *answers* has the line that is typed once a text is shown.
    *log* gets the console as it comes.

    :raises SfvmError: not all was shown in time, QEMU ended, or the guest gave up; the last lines are in the error
    """
    format_ = format_ or (disk.suffix.removeprefix(".") if disk.suffix in (".qcow2", ".vmdk", ".vhdx") else "raw")
    with tempfile.TemporaryDirectory(prefix="sfvm-boot-") as directory:
        flash = _uefi(Path(directory)) if firmware == UEFI else None
        words = command(disk, format_, memory, profile, flash, controller, nic)
        return _watch(words, f"{disk} does not boot under {firmware.upper()}", until, deadline, directory, log, answers)


def netboot(
    script: str,
    *,
    until: Sequence[str],
    deadline: float,
    memory: int = 2048,
    profile: Profile = TCG,
    log: Callable[[str], None] = lambda text: None,
) -> str:
    """As :func:`boot`, a machine without a disk, whose network card runs iPXE: DHCP tells it *script*, the URI of an
    iPXE script. This machine is 10.0.2.2 there.

    :raises SfvmError: as :func:`boot`
    """
    words = (
        *_machine(memory, profile),
        *("-netdev", f"user,id=net,bootfile={_value(script)}", "-device", "virtio-net-pci,netdev=net,bootindex=1"),
    )
    with tempfile.TemporaryDirectory(prefix="sfvm-boot-") as directory:
        return _watch(words, f"{script} does not boot", until, deadline, directory, log)


def _watch(
    words: Sequence[str],
    failing: str,
    until: Sequence[str],
    deadline: float,
    directory: str,
    log: Callable[[str], None],
    answers: Mapping[str, str] = {},  # it is not changed
) -> str:
    """Run QEMU with *words* until its console has shown every text of *until*; what it has shown."""
    end = time.monotonic() + deadline
    text = ""
    with _running(words, directory) as (process, errors):
        assert process.stdout is not None
        assert process.stdin is not None
        asked = dict(answers)
        output = process.stdout.fileno()
        while missing := [wanted for wanted in until if wanted not in text]:
            left = end - time.monotonic()
            ready = left > 0 and select.select([output], [], [], left)[0]
            if not ready:
                raise _failure(failing, text, f"no {missing[0]!r} on the console after {deadline:.0f} s")
            chunk = os.read(output, 65536)
            if not chunk:
                process.wait()
                errors.seek(0)
                said = errors.read().decode(errors="replace").strip()
                raise _failure(failing, text, f"QEMU ended: {said or 'the guest stopped the machine'}")
            log(chunk.decode(errors="replace"))
            text = plain(text + chunk.decode(errors="replace"))
            for question in [question for question in asked if question in text]:
                process.stdin.write(f"{asked.pop(question)}\n".encode())
                process.stdin.flush()
            for sign in DEAD_ENDS:
                if sign in text:
                    raise _failure(failing, text, f"the console shows {sign!r}")
    return text


def plain(text: str) -> str:
    """Console *text* without complete escape sequences and carriage returns."""
    return _ESCAPES.sub("", text).replace("\r", "")


def command(
    disk: Path,
    format_: str,
    memory: int,
    profile: Profile,
    firmware: tuple[Path, Path] | None,
    controller: str = "virtio",
    nic: str = "virtio-net-pci",
) -> tuple[str, ...]:
    """QEMU's command line: serial console on stdin and stdout, changes to the disk thrown away. *firmware* is UEFI's
    code and a private copy of its variables."""
    pflash = ("format=raw,unit=0,readonly=on", "format=raw,unit=1")
    flash = [
        word
        for options, path in zip(pflash, firmware or (), strict=False)
        for word in ("-drive", f"if=pflash,{options},file={_value(path)}")
    ]
    devices = [word for device in CONTROLLERS[controller] for word in ("-device", device)]
    return (
        *_machine(memory, profile), *flash,
        "-drive", f"file={_value(disk.absolute())},format={format_},if=none,id=disk,snapshot=on,cache=unsafe",
        *devices,
        "-netdev", "user,id=net", "-device", f"{nic},netdev=net,romfile=",
    )  # fmt: skip


def _machine(memory: int, profile: Profile) -> tuple[str, ...]:
    """QEMU and a machine without disks and network. It has one CPU: emulated, guests of two that share this machine's
    wait for each other, and boot later."""
    return (
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-vga", "std",
        "-machine", f"q35,accel={profile.name}", "-cpu", profile.cpu() or "max", "-smp", "1", "-m", str(memory),
        "-serial", "stdio",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
    )  # fmt: skip


@contextmanager
def _running(words: Sequence[str], directory: str) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """QEMU, killed at the end (by the kernel, too, when this process is killed); *directory* is for what it changes."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "TMPDIR": directory},
            process_group=0,
        )
        try:
            yield process, errors
        finally:
            process.kill()
            process.communicate()


def _uefi(directory: Path) -> tuple[Path, Path]:
    for code, variables in FIRMWARE:
        if Path(code).exists() and Path(variables).exists():
            return Path(code), Path(shutil.copy(variables, directory / "variables.fd"))
    raise SfvmError(
        "there is no UEFI firmware for QEMU",
        why="looked for " + ", ".join(code for code, _ in FIRMWARE),
        hint="install it: ovmf (Debian), edk2-ovmf (Fedora)",
    )


def _failure(what: str, text: str, why: str) -> SfvmError:
    lines = [line for line in text.splitlines() if line.strip()]
    return SfvmError(what, why=why, detail=lines[-LAST_LINES:])


def _value(path: Path | str) -> str:
    """A file name inside an option: commas are doubled (qemu(1))."""
    return str(path).replace(",", ",,")
