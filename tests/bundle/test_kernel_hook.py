"""The hook of Fedora's kin that brings later kernels into our boot menu, run on a directory instead of /boot."""

import subprocess
from pathlib import Path

import pytest

from sfvm.bundle.disk import grub

HOOK = Path(__file__).parents[2] / "specs/common/redhat/95-sfvm.install"
OLD, NEW = "5.14.0-9.el9.x86_64", "5.14.0-70.el9.x86_64"


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A /boot with the kernel OLD."""
    boot = tmp_path / "boot"
    (boot / "grub").mkdir(parents=True)
    (boot / f"vmlinuz-{OLD}").write_text("old")
    (boot / f"initramfs-{OLD}.img").write_text("old initramfs")
    (boot / "grub" / "grub.cfg").write_text(menu(OLD))
    return boot


def menu(*versions: str) -> str:
    names = [name for version in versions for name in (f"vmlinuz-{version}", f"initramfs-{version}.img")]
    return grub.configuration(grub.Home("u-u"), names, "centos", ["ttyS0"], "root=UUID=u-u ro", 1)


def hook(boot: Path, *words: str, layout: str = "other") -> None:
    script = HOOK.read_text().replace("boot=/boot\n", f"boot={boot}\n")
    script = script.replace('dracut --force "$boot/initramfs-$2.img" "$2"', 'touch "$boot/initramfs-$2.img"')
    assert "touch" in script
    given = {"KERNEL_INSTALL_LAYOUT": layout, "PATH": "/usr/bin:/bin"}
    subprocess.run(["sh", "-c", script, "hook", *words], check=True, env=given)


def add(boot: Path, version: str, **more: str) -> None:
    image = boot.parent / "image"
    image.write_text("new")
    hook(boot, "add", version, "/nowhere", str(image), **more)


def test_a_later_kernel_comes_first_and_an_older_one_goes(boot: Path) -> None:
    add(boot, NEW)
    assert (boot / f"vmlinuz-{NEW}").read_text() == "new"
    assert (boot / f"initramfs-{NEW}.img").exists()
    assert (boot / "grub" / "grub.cfg").read_text() == menu(OLD, NEW)
    hook(boot, "remove", OLD)
    assert (boot / "grub" / "grub.cfg").read_text() == menu(NEW)
    assert sorted(path.name for path in boot.iterdir()) == ["grub", f"initramfs-{NEW}.img", f"vmlinuz-{NEW}"]


def test_a_menu_that_is_not_ours_stays(boot: Path) -> None:
    (boot / "grub" / "grub.cfg").write_text("menuentry 'centos, Linux 1' {\n}\n")
    add(boot, NEW)
    assert (boot / "grub" / "grub.cfg").read_text() == "menuentry 'centos, Linux 1' {\n}\n"
    assert (boot / f"vmlinuz-{NEW}").exists()


def test_a_loader_that_reads_entries_is_left_alone(boot: Path) -> None:
    add(boot, NEW, layout="bls")
    assert not (boot / f"vmlinuz-{NEW}").exists()
