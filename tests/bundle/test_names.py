"""What filesystems are called in fstab and by the kernel, and what their containers take: arithmetic."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from sfvm import document
from sfvm.bundle.disk import containers
from sfvm.bundle.disk.layout import MIB, Layout
from sfvm.bundle.disk.names import Names
from sfvm.bundle.disk.parts import made
from sfvm.bundle.kernel import Kernel
from sfvm.bundle.outputs.layout import LayoutVerb
from sfvm.bundle.sysprep import crypttab
from sfvm.spec import schema

NODE = 64 * MIB
UNIQUE, IDENTITY = uuid.UUID(int=1), uuid.UUID(int=2)


def verb(directory: Path, text: str) -> LayoutVerb:
    path = directory / "format.xml"
    path.write_text(text.replace("<layout", '<layout xmlns="urn:sfvm:1"', 1))
    element = document.parse(path)
    schema.validate_verb(element, "bundle")
    return LayoutVerb.parse(element)


def names(layout: Layout) -> Names:
    own = tuple(number for number, part in enumerate(layout.parts) if made(part, NODE, "ext4"))
    return Names(layout, "ext4", own, UNIQUE, IDENTITY)


@pytest.mark.parametrize(
    ("root", "is_made", "source"),
    [
        ("<root/>", False, "UUID="),
        ('<root format="ext4"/>', False, "UUID="),
        ('<root size="1G"/>', False, "UUID="),
        ('<root size="32M"/>', True, "UUID="),
        ('<root size="+1M"/>', True, "UUID="),
        ('<root format="xfs"/>', True, "UUID="),
        ('<root format="squashfs"/>', True, "PARTUUID="),
        ('<root format="ext4" size="64M" verity="yes"/>', True, "/dev/mapper/root"),
        ('<lvm group="vg0"><root/></lvm>', True, "/dev/mapper/vg0-root"),
        ("<raid><root/></raid>", True, "UUID="),
        ("<luks><root/></luks>", True, "/dev/mapper/root"),
        ('<luks name="other"><root/></luks>', True, "/dev/mapper/other"),
    ],
)
def test_a_root_is_the_nodes_blocks_or_its_files(tmp_path: Path, root: str, is_made: bool, source: str) -> None:
    found = names(verb(tmp_path, f'<layout table="gpt">{root}</layout>').layout).root
    assert found.made is is_made
    assert found.source.startswith(source)


def test_fstab_has_everything_that_is_mounted_parents_first(tmp_path: Path) -> None:
    text = (
        '<layout table="gpt"><esp/><data size="16M" mount="/boot"/><data size="1M" format="squashfs" mount="/opt"/>'
        '<lvm group="vg0"><swap size="1M"/><root format="btrfs"><subvolume path="/home"/></root></lvm></layout>'
    )
    found = names(verb(tmp_path, text).layout)
    assert [(entry[1], entry[2], entry[3]) for entry in found.entries()] == [
        ("/", "btrfs", "defaults"),
        ("/home", "btrfs", "subvol=/home"),
        ("/boot", "ext4", "defaults"),
        ("/opt", "squashfs", "ro"),
        ("none", "swap", "sw"),
        ("/boot/efi", "vfat", "umask=0077,nofail"),
    ]
    assert found.home.directory == ""
    assert f"UUID={found.home.uuid}" == found.entries()[2][0]
    devices = [entry[0] for entry in found.entries() if entry[2] != "btrfs"]
    assert len(set(devices)) == len(devices)


def test_a_container_is_as_large_as_what_is_in_it(tmp_path: Path) -> None:
    text = '<layout table="gpt"><lvm group="a"><root/><swap size="6M"/></lvm><raid><data size="8M"/></raid></layout>'
    layout = verb(tmp_path, text).layout
    assert containers.size(layout, 0, NODE) == 64 * MIB + 8 * MIB + containers.LVM_OVERHEAD
    assert containers.size(layout, 1, NODE) == containers.size(layout, 2, NODE) == 8 * MIB + containers.RAID_OVERHEAD
    half = verb(tmp_path, '<layout table="gpt"><lvm group="a" size="50%"><root/></lvm></layout>').layout
    assert containers.size(half, 0, NODE) == 32 * MIB


def test_what_is_locked_is_told_to_the_kernel_and_in_crypttab(tmp_path: Path) -> None:
    text = (
        '<layout table="gpt"><esp/><luks name="system" secret="one"><root/></luks>'
        '<luks secret="two"><swap size="1M"/></luks>'
        '<luks name="d" secret="one"><data size="6M" mount="/d"/></luks></layout>'
    )
    layout = verb(tmp_path, text).layout
    assert layout.secrets == ("one", "two")
    found = names(layout)
    assert list(found.locked) == ["system", "swap", "d"]
    assert len(set(found.locked.values())) == 3
    own = found.locked["system"]
    assert found.unlocking == f"cryptopts=target=system,source=UUID={own},luks rd.luks.name={own}=system"
    assert containers.size(layout, 1, NODE) == NODE + 16 * MIB
    assert containers.size(layout, 3, NODE) == 22 * MIB
    before = "# kept\nsystem /dev/sda1 none\nmine UUID=1 none luks\n"
    assert crypttab(before, {"system": own}).splitlines() == [
        "# kept",
        "mine UUID=1 none luks",
        f"system UUID={own} none luks",
    ]
    plain = names(verb(tmp_path, '<layout table="gpt"><luks><swap size="1M"/></luks><root/></layout>').layout)
    assert plain.unlocking == ""  # systemd opens it, by crypttab


def test_what_boots_from_it_must_find_it(tmp_path: Path) -> None:
    boot = '<esp/><boot loader="uki"/>'
    plain = verb(tmp_path, f'<layout table="gpt"><root/>{boot}</layout>')
    assert list(plain.requires()) == []
    silent = verb(tmp_path, '<layout table="gpt"><root format="xfs"/></layout>')
    assert list(silent.requires()) == []  # nothing boots it
    text = f'<layout table="gpt"><lvm group="a" thin="p"><root format="xfs"/></lvm>{boot}</layout>'
    lacking = [
        phrase
        for required in verb(tmp_path, text).requires()
        for phrase in required.missing(Kernel("6.1", initramfs=frozenset({"dm_mod"})), frozenset({"lvm2"}))
    ]
    assert lacking == [
        "the driver xfs",
        "the package thin-provisioning-tools or device-mapper-persistent-data",
        "the driver dm_thin_pool",
    ]
