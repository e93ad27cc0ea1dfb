"""GRUB's images and the EFI system partition, judged by tools that sfvm did not write."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sfvm.bundle.disk import grub, loader
from sfvm.bundle.disk.layout import Boot, Layout, Part
from sfvm.bundle.finished import BOOT_IMAGE, CORE_IMAGE, Finished
from sfvm.errors import BundleError

UUID = "7e2c5a36-0f7b-4f0e-9a53-8d9f1c1a2b3c"


ESP = Part("esp", 40 << 20, "vfat")
BIOS_BOOT = Part("bios-boot", 1 << 20)


def layout(*parts: Part, table: str = "gpt", boot: str = "grub") -> Layout:
    return Layout(table, (*parts, Part("root")), Boot(boot))


def make(layout: Layout, directory: Path) -> Finished:
    directory.mkdir(exist_ok=True)
    loader.make(layout, grub.Home(UUID), "1234ABCD", 1_700_000_000, directory)
    return Finished(directory, UUID)


def listing(esp: Path) -> str:
    done = subprocess.run(["mdir", "-i", esp, "-/", "-b", "::"], capture_output=True, text=True)  # fails on nothing
    return done.stdout.upper()


def test_firmware_finds_grub_and_grub_its_root(tmp_path: Path) -> None:
    made = make(layout(BIOS_BOOT, ESP), tmp_path)
    esp = made.part(1)
    assert esp is not None
    assert "::/EFI/BOOT/BOOTX64.EFI" in listing(esp)
    assert UUID.encode() in esp.read_bytes()  # the image for UEFI is not compressed
    told = subprocess.run(
        ["/usr/sbin/blkid", "-p", "-o", "export", esp], capture_output=True, text=True, check=True
    ).stdout
    assert {"UUID=1234-ABCD", "LABEL=ESP", "VERSION=FAT32"} <= set(told.splitlines())
    assert subprocess.run(["/usr/sbin/fsck.vfat", "-n", esp], capture_output=True).returncode == 0
    assert len(made.image(BOOT_IMAGE)) == 512
    assert len(made.image(CORE_IMAGE)) > 30_000


def test_only_what_is_wanted(tmp_path: Path) -> None:
    bios = make(layout(BIOS_BOOT), tmp_path / "bios")
    assert (bios.part(0), bool(bios.image(CORE_IMAGE))) == (None, True)
    assert make(layout(table="mbr"), tmp_path / "mbr").image(CORE_IMAGE)
    uefi = make(layout(ESP), tmp_path / "uefi")
    assert (uefi.image(BOOT_IMAGE), uefi.image(CORE_IMAGE)) == (b"", b"")
    none = make(layout(BIOS_BOOT, ESP, boot="none"), tmp_path / "none")
    esp = none.part(1)
    assert esp is not None
    assert "EFI" not in listing(esp)
    assert none.image(CORE_IMAGE) == b""


def test_the_partition_is_the_same_every_time(tmp_path: Path) -> None:
    one, two = (make(layout(ESP), tmp_path / name).part(0) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one.read_bytes() == two.read_bytes()


def test_what_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"mkfs\.vfat failed"):
        loader.run(0, ("mkfs.vfat",), tmp_path / "missing")
    with pytest.raises(BundleError, match="no-such-program cannot be run"):
        loader.run(0, ("no-such-program", "another"))
    monkeypatch.setattr(loader, "MODULES", tmp_path)
    with pytest.raises(BundleError, match=r"boot\.img cannot be read"):
        loader.make(layout(BIOS_BOOT), grub.Home(UUID), "1234ABCD", 0, tmp_path)
