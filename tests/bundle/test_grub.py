"""Where GRUB's images go, and its configuration."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from sfvm.bundle.disk import grub

BOOT = ["vmlinuz-6.1.0-9-amd64", "initrd.img-6.1.0-9-amd64", "vmlinuz-6.1.0-56-amd64", "initrd.img-6.1.0-56-amd64"]


def test_the_first_sector_points_at_core_image() -> None:
    code = grub.boot_code(bytes(range(256)) * 2, 2048)
    assert len(code) == 440
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    assert code[0x66:0x68] == b"\x90\x90"
    assert code[:0x5C] == bytes(range(256))[:0x5C]


def test_core_image_knows_where_its_rest_is() -> None:
    placed = grub.place_core(b"\x01" * 1300, 2048, 1 << 20)
    assert len(placed) == 3 * 512
    assert struct.unpack_from("<QHH", placed, 500) == (2049, 2, 0x820)
    assert placed[:500] == b"\x01" * 500
    assert placed[512:1300] == b"\x01" * 788


def test_core_image_must_fit() -> None:
    with pytest.raises(ValueError, match="its partition 1024"):
        grub.place_core(bytes(1025), 2048, 1024)


def test_the_newest_kernel_is_first() -> None:
    assert grub.kernels([*BOOT, "config-6.1.0-9-amd64", "grub"]) == ("6.1.0-56-amd64", "6.1.0-9-amd64")


def test_grub_takes_the_configuration(tmp_path: Path) -> None:
    text = grub.configuration(grub.Home("abc-def"), BOOT, "debian", ("tty0", "ttyS0"), "root=UUID=abc-def quiet", 1)
    assert "linux /boot/vmlinuz-6.1.0-56-amd64 root=UUID=abc-def quiet" in text
    assert "initrd /boot/initrd.img-6.1.0-56-amd64" in text
    assert text.index("6.1.0-56") < text.index("6.1.0-9")
    check = shutil.which("grub-script-check")
    if check is None:
        pytest.skip("grub-script-check is not installed")
    (tmp_path / "grub.cfg").write_text(text)
    assert subprocess.run([check, tmp_path / "grub.cfg"]).returncode == 0


def test_a_boot_partition_has_the_files_at_its_top() -> None:
    home = grub.Home("abc-def", "")
    assert "prefix=($root)/grub\n" in grub.early_configuration(home)
    text = grub.configuration(home, BOOT, "debian", (), "", 1)
    assert "linux /vmlinuz-6.1.0-56-amd64" in text
    assert "initrd /initrd.img-6.1.0-56-amd64" in text


def test_defaults_are_shell(tmp_path: Path) -> None:
    (tmp_path / "sfvm.cfg").write_text(grub.defaults(("ttyS0",), 'a="b c" $HOME', 3))
    script = f'. {tmp_path}/sfvm.cfg; echo "$GRUB_CMDLINE_LINUX|$GRUB_TIMEOUT"'
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert told == 'console=ttyS0,115200n8 a="b c" $HOME|3\n'


def test_a_release_candidate_is_older_than_its_release():
    assert grub.kernels(["vmlinuz-6.1.0-rc1", "vmlinuz-6.1.0", "vmlinuz-6.0.9"]) == ("6.1.0", "6.1.0-rc1", "6.0.9")


def test_a_quote_in_the_title_does_not_end_it():
    text = grub.configuration(grub.Home("uuid"), ["vmlinuz-1"], "Joe's Linux", ["tty0"], "", 1)
    assert "menuentry 'Joes Linux, Linux 1' {" in text
