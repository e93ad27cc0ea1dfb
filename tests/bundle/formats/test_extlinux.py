"""A tiny guest with a kernel, started by its own extlinux from every kind of partition: SeaBIOS, the boot code of
syslinux and Linux judge what was made."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.appliance import kernel
from sfvm.boot.qemu import boot
from sfvm.events import ignore
from tests.conftest import CACHE
from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers.tools import tool

pytestmark = pytest.mark.vm

INIT = """#!/bin/busybox sh
/bin/busybox dmesg -n 1
/bin/busybox mount -t proc proc /proc
read -r words </proc/cmdline
echo "the guest is up: $words"
echo "that was all"
/bin/busybox sleep 600
"""
EXT4 = '<root/><boot loader="extlinux" console="ttyS0"/></layout>'
BOOT = '<boot loader="extlinux" console="ttyS0" arguments="quiet" timeout="0"/></layout>'
LAYOUTS = {
    "gpt": f'<layout table="gpt">{EXT4}',
    "mbr": f'<layout table="mbr"><swap size="1M"/>{EXT4}',
    "none": f'<layout table="none">{EXT4}',
    "btrfs": f'<layout table="gpt"><root format="btrfs" size="+20M"><subvolume path="/srv"/></root>{BOOT}',
    "made": f'<layout table="mbr"><root format="ext4" size="2G"/>{BOOT}',
    "vfat": f'<layout table="gpt"><data format="vfat" size="64M" mount="/boot"/><root format="xfs"/>{BOOT}',
    "boot": f'<layout table="mbr"><root/><data size="+8M" mount="/boot"/>{BOOT}',
}
SECONDS = 120.0


def files(directory: Path) -> None:
    """What the node gets: a kernel, an initramfs, extlinux and what that needs."""
    for path in ("usr/bin/extlinux", "lib64/ld-linux-x86-64.so.2", "lib/x86_64-linux-gnu/libc.so.6"):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path("/", path), directory / path)
    shutil.copytree("/usr/lib/EXTLINUX", directory / "usr/lib/EXTLINUX")
    (directory / "boot").mkdir()
    shutil.copy(kernel.find(CACHE, ignore).path, directory / "boot/vmlinuz-6.1")
    (directory / "boot/vmlinuz-5.10").write_bytes(b"an older one")
    modules = directory / "lib/modules/6.1/modules.builtin"
    modules.parent.mkdir(parents=True)
    modules.write_text("kernel/fs/btrfs/btrfs.ko\nkernel/fs/xfs/xfs.ko\nkernel/fs/ext4/ext4.ko\n")  # or it is refused
    work = directory / "initramfs"
    for name in ("bin", "dev", "proc"):
        (work / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", work / "bin/busybox")
    (work / "init").write_text(INIT)
    (work / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(work)) for path in sorted(work.rglob("*")))
    words = (tool("cpio"), "--create", "--format=newc", "--quiet")
    made = subprocess.run(words, cwd=work, input=names.encode(), capture_output=True, check=True).stdout
    (directory / "boot/initrd.img-6.1").write_bytes(made)
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def disks(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_of(tmp_path_factory.mktemp("extlinux"), seed) as made:
        (made.home / "formats").mkdir()
        for name, layout in LAYOUTS.items():
            head = f'<format xmlns="urn:sfvm:1" name="{name}"><summary>{name}</summary>'
            text = f'{head}{layout}<convert to="raw" as="disk"/></format>'
            (made.home / "formats" / f"{name}.xml").write_text(text)
        files(made.specs / "files")
        made.write("node", "busybox", '<copy from="files/" to="/"/>')
        made.sfvm("build", "node")
        made.sfvm("bundle", "node", *LAYOUTS, "--output", "out", timeout=900)
        yield made


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_guest_is_started_with_its_arguments(disks: Project, name: str) -> None:
    image = disks.home / "out" / f"node-{name}" / "disk"
    console = boot(image, "bios", until=["that was all"], deadline=SECONDS, controller="ahci")
    words = console[console.index("the guest is up: ") :].splitlines()[0]
    assert "root=UUID=" in words
    assert "BOOT_IMAGE=" in words
    assert "vmlinuz-6.1" in words
    assert ("quiet" in words) is (name not in ("gpt", "mbr", "none"))


def test_what_is_marked_is_what_extlinux_is_on(disks: Project) -> None:
    def table(name: str) -> list[dict[str, str]]:
        image = disks.home / "out" / f"node-{name}" / "disk"
        told = subprocess.run([tool("sfdisk"), "--json", image], capture_output=True, check=True).stdout
        found: list[dict[str, str]] = json.loads(told)["partitiontable"]["partitions"]
        return found

    assert ["bootable" in part for part in table("boot")] == [False, True]
    assert ["bootable" in part for part in table("mbr")] == [False, True]
    assert ["LegacyBIOSBootable" in part.get("attrs", "") for part in table("vfat")] == [True, False]


def test_a_guest_without_it_is_told_what_it_lacks(disks: Project) -> None:
    disks.write("bare", "node", '<remove path="/usr/bin/extlinux"/>')
    disks.sfvm("build", "bare")
    done = disks.sfvm("bundle", "bare", "gpt", "--output", "out", status=1)
    assert "node bare has no extlinux" in done.stderr
    assert 'packages install="extlinux"' in done.stderr
