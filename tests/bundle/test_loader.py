"""GRUB's images and the EFI system partition, judged by tools that sfvm did not write."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sfvm.bundle import loader
from sfvm.bundle.layout import Layout
from sfvm.errors import BundleError, Place

UUID = "7e2c5a36-0f7b-4f0e-9a53-8d9f1c1a2b3c"


def layout(*, bios: bool = True, esp: int | None = 40 << 20, grub: str = "grub") -> Layout:
    return Layout(bios, esp, grub, (), "", 1, Place(Path("layout"), 1))


def listing(esp: Path) -> str:
    done = subprocess.run(["mdir", "-i", esp, "-/", "-b", "::"], capture_output=True, text=True)  # fails on nothing
    return done.stdout.upper()


def test_firmware_finds_grub_and_grub_its_root(tmp_path: Path) -> None:
    made = loader.make(layout(), UUID, "1234ABCD", tmp_path)
    assert made.esp is not None
    assert "::/EFI/BOOT/BOOTX64.EFI" in listing(made.esp)
    assert UUID.encode() in made.esp.read_bytes()  # the image for UEFI is not compressed
    told = subprocess.run(
        ["/usr/sbin/blkid", "-p", "-o", "export", made.esp], capture_output=True, text=True, check=True
    ).stdout
    assert {"UUID=1234-ABCD", "LABEL=ESP", "VERSION=FAT32"} <= set(told.splitlines())
    assert subprocess.run(["/usr/sbin/fsck.vfat", "-n", made.esp], capture_output=True).returncode == 0
    assert len(made.boot_image) == 512
    assert len(made.core_image) > 30_000


def test_only_what_is_wanted(tmp_path: Path) -> None:
    for name in ("bios", "uefi", "none"):
        (tmp_path / name).mkdir()
    bios = loader.make(layout(esp=None), UUID, "1234ABCD", tmp_path / "bios")
    assert (bios.esp, bool(bios.core_image)) == (None, True)
    uefi = loader.make(layout(bios=False), UUID, "1234ABCD", tmp_path / "uefi")
    assert (uefi.boot_image, uefi.core_image) == (b"", b"")
    none = loader.make(layout(grub="none"), UUID, "1234ABCD", tmp_path / "none")
    assert none.esp is not None
    assert "EFI" not in listing(none.esp)
    assert none.core_image == b""


def test_what_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BundleError, match=r"mkfs\.vfat failed"):
        loader.run(("mkfs.vfat",), tmp_path / "missing")
    with pytest.raises(BundleError, match="no-such-program cannot be run"):
        loader.run(("no-such-program", "another"))
    monkeypatch.setattr(loader, "MODULES", tmp_path)
    with pytest.raises(BundleError, match=r"boot\.img cannot be read"):
        loader.make(layout(esp=None), UUID, "1234ABCD", tmp_path)
