"""What the loaders that read the EFI system partition alone find there, judged by other people's tools."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sfvm.bundle.disk import efi, grub, loader, pe
from sfvm.bundle.disk.layout import Boot, Layout, Part
from sfvm.bundle.finished import part_file
from sfvm.errors import BundleError
from tests.peers.tools import tool

STUB = Path(efi.HOME, efi.PROGRAM["uki"])
RELEASE = 'ID=tiny\nPRETTY_NAME="Tiny Linux 1"\n'
ARGUMENTS = "root=UUID=1-2 ro console=ttyS0"
KERNEL, INITRD = b"K" * 70_001, b"I" * 50_000


@pytest.fixture
def system(tmp_path: Path) -> efi.System:
    for name, content in (("vmlinuz", KERNEL), ("initrd", INITRD)):
        (tmp_path / name).write_bytes(content)
    return efi.System("6.1-tiny", tmp_path / "vmlinuz", tmp_path / "initrd", ARGUMENTS, RELEASE, STUB)


def layout(kind: str, size: int | None = None) -> Layout:
    return Layout("gpt", (Part("esp", size, "vfat"), Part("root")), Boot(kind, timeout=3))


def make(layout: Layout, system: efi.System, directory: Path) -> Path:
    loader.make(layout, grub.Home("x"), "1234ABCD", 1_700_000_000, directory, system)
    return part_file(directory, 0)


def mtype(esp: Path, path: str) -> bytes:
    return subprocess.run([tool("mtype"), "-i", esp, f"::{path}"], check=True, capture_output=True).stdout


def section(image: Path, name: str) -> bytes:
    target = image.with_suffix(".section")
    subprocess.run([tool("objcopy"), "-O", "binary", f"--only-section={name}", image, target], check=True)
    return target.read_bytes()


def test_a_unified_kernel_image_has_its_parts(system: efi.System, tmp_path: Path) -> None:
    esp = make(layout("uki"), system, tmp_path)
    image = tmp_path / "read.efi"
    image.write_bytes(mtype(esp, "/EFI/BOOT/BOOTX64.EFI"))
    assert section(image, ".linux") == KERNEL
    assert section(image, ".initrd") == INITRD
    assert section(image, ".cmdline") == ARGUMENTS.encode()
    assert section(image, ".osrel") == RELEASE.encode()
    assert section(image, ".uname") == b"6.1-tiny"
    told = subprocess.run([tool("objdump"), "-h", image], check=True, capture_output=True, text=True).stdout
    assert [word for word in told.split() if word.startswith(".")][-1] == ".linux"
    damaged = tmp_path / "damaged.efi"
    damaged.write_bytes(image.read_bytes().replace(b".linux\0\0", b".linus\0\0", 1))
    assert section(damaged, ".linux") == b""


def test_nothing_of_the_stub_is_lost(system: efi.System, tmp_path: Path) -> None:
    image = tmp_path / "x.efi"
    pe.append(STUB.read_bytes(), [pe.Section(".cmdline", b"x")], image)
    assert section(image, ".text") == section_of_stub(tmp_path, ".text")
    assert section(image, ".sbat") == section_of_stub(tmp_path, ".sbat")


def section_of_stub(directory: Path, name: str) -> bytes:
    (directory / "stub.efi").write_bytes(STUB.read_bytes())
    return section(directory / "stub.efi", name)


@pytest.mark.parametrize(("stub", "message"), [(b"MZ" + bytes(2000), "no program"), (b"", "no program")])
def test_what_is_no_stub_is_refused(tmp_path: Path, stub: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pe.append(stub, [], tmp_path / "x.efi")


def test_headers_have_an_end(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no room"):
        pe.append(STUB.read_bytes(), [pe.Section(f".s{number}", b"") for number in range(60)], tmp_path / "x.efi")


def test_systemd_boot_has_an_entry(system: efi.System, tmp_path: Path) -> None:
    program = Path(efi.HOME, efi.PROGRAM["systemd-boot"])
    esp = make(layout("systemd-boot"), replace(system, program=program), tmp_path)
    entry = mtype(esp, "/loader/entries/tiny-6.1-tiny.conf").decode()
    fields = dict(line.split(" ", 1) for line in entry.splitlines())
    assert (fields["title"], fields["version"], fields["options"]) == ("Tiny Linux 1", "6.1-tiny", ARGUMENTS)
    assert mtype(esp, fields["linux"]) == KERNEL
    assert mtype(esp, fields["initrd"]) == INITRD
    assert b"timeout 3" in mtype(esp, "/loader/loader.conf")
    assert mtype(esp, "/EFI/BOOT/BOOTX64.EFI") == program.read_bytes()
    assert subprocess.run([tool("fsck.vfat"), "-n", esp], capture_output=True).returncode == 0


def test_the_partition_is_the_same_every_time(system: efi.System, tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        time.sleep(2)  # FAT's clock has steps of two seconds
        images.append(make(layout("systemd-boot"), system, tmp_path / name).read_bytes())
    assert images[0] == images[1]


def test_a_partition_too_small_says_what_is_needed(system: efi.System, tmp_path: Path) -> None:
    with system.vmlinuz.open("r+b") as file:
        file.truncate(50 << 20)
    with pytest.raises(BundleError, match="too small for the kernel") as caught:
        make(layout("uki", 40 << 20), system, tmp_path)
    assert caught.value.hint is not None
    assert 'size="54M"' in caught.value.hint
    grown = tmp_path / "grown"
    grown.mkdir()
    assert make(layout("uki"), system, grown).stat().st_size == 108 << 20  # room for the next kernel
