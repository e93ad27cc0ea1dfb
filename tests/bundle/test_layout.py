"""What formats may ask of a disk, and where its parts are."""

from __future__ import annotations

import json
import subprocess
import uuid
from pathlib import Path

import pytest

from sfvm import document
from sfvm.bundle.disk import extlinux, mbr, verity
from sfvm.bundle.disk.compose import table_of
from sfvm.bundle.disk.filesystems import TYPES
from sfvm.bundle.disk.layout import Layout
from sfvm.bundle.disk.partitions import Wanted, arrange
from sfvm.bundle.outputs.layout import LayoutVerb
from sfvm.errors import SpecError
from sfvm.spec import schema
from tests.peers.tools import PLACES, tool

UNIQUE = uuid.UUID("5f9d6a2e-7c1b-4a55-9b0e-1f2a3b4c5d6e")


def layout(directory: Path, text: str) -> Layout:
    path = directory / "format.xml"
    path.write_text(text.replace("<layout", '<layout xmlns="urn:sfvm:1"', 1))
    element = document.parse(path)
    schema.validate_verb(element, "bundle")
    return LayoutVerb.parse(element).layout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('<layout table="gpt"><esp size="8M"/><root/></layout>', "too small"),
        ('<layout table="gpt" multiple="1000000"><root/></layout>', "no whole number of sectors"),
        ('<layout table="gpt"><root/><boot loader="grub"/></layout>', "no place"),
        ('<layout table="none"><esp/><root/></layout>', "root filesystem alone"),
        ('<layout table="mbr"><bios-boot/><root/></layout>', "no BIOS boot partition"),
        ('<layout table="mbr"><root/>' + '<data size="1M"/>' * 4 + "</layout>", "has 4 partitions"),
        ('<layout table="gpt"><root/><data size="1M" mount="/"/></layout>', "the same place"),
        ('<layout table="gpt"><root/><data size="1M" format="ext5"/></layout>', "did you mean"),
        ('<layout table="gpt"><esp/><root/><boot loader="grup"/></layout>', "did you mean"),
        ('<layout table="gpt"><root/><boot loader="uki"/></layout>', "stands on an EFI"),
        ('<layout table="gpt"><esp/></layout>', "one root, this one has 0"),
        ('<layout table="gpt"><root/><lvm group="v"><root/></lvm></layout>', "one root, this one has 2"),
        ('<layout table="gpt"><root format="vfat"/></layout>', "cannot be 'vfat'"),
        ('<layout table="gpt"><root><subvolume path="/a"/></root></layout>', "only btrfs"),
        ('<layout table="gpt"><esp/><root format="squashfs"/><boot loader="grub"/></layout>', "cannot read its files"),
        ('<layout table="gpt"><root/><swap size="+1M"/></layout>', "swap needs nothing"),
        ('<layout table="gpt"><lvm group="a-b"><root/></lvm></layout>', "no name for LVM"),
        ('<layout table="gpt"><lvm group="a"><root/><data size="1M" name="root"/></lvm></layout>', "two volumes"),
        ('<layout table="gpt"><lvm group="a"><root size="+1M"/></lvm></layout>', "in a container"),
        (
            '<layout table="mbr"><lvm group="a" thin="p"><root/></lvm><boot loader="grub"/></layout>',
            "from a thin volume",
        ),
        ('<layout table="gpt"><luks/><root/></layout>', "luks"),
        ('<layout table="gpt"><luks name="a/b"><root/></luks></layout>', "cannot be a name"),
        ('<layout table="gpt"><luks secret="$(id)"><root/></luks></layout>', "cannot be a name"),
        ('<layout table="gpt"><luks><root size="+1M"/></luks></layout>', "in a container"),
        ('<layout table="gpt"><luks><root/></luks><luks name="root"><swap size="1M"/></luks></layout>', "same name"),
        ('<layout table="mbr"><luks><root/></luks><boot loader="grub"/></layout>', "from what is locked"),
        ('<layout table="mbr"><luks><root/></luks><boot loader="extlinux"/></layout>', "a part in a container"),
        (
            '<layout table="gpt"><luks><data size="8M" mount="/boot"/></luks><root/></layout>',
            "before anything is unlocked",
        ),
        ('<layout table="gpt"><luks><root format="ext4" verity="yes"/></luks></layout>', "a partition of a GPT"),
        ('<layout table="gpt"><raid><root/></raid><boot loader="extlinux"/></layout>', "a part in a container"),
        (
            '<layout table="gpt"><root format="xfs"/><boot loader="extlinux"/></layout>',
            "cannot read its files from xfs",
        ),
        (
            '<layout table="gpt"><root format="btrfs"><subvolume path="/boot"/></root><boot loader="extlinux"/>'
            "</layout>",
            "from a subvolume",
        ),
        ('<layout table="gpt"><root verity="yes"/></layout>', "read-only one"),
        ('<layout table="gpt"><root format="xfs" verity="yes"/></layout>', "read-only one"),
        ('<layout table="mbr"><root format="erofs" verity="yes"/></layout>', "a partition of a GPT"),
        (
            '<layout table="gpt"><lvm group="a"><root format="ext4" verity="yes"/></lvm></layout>',
            "a partition of a GPT",
        ),
        (
            '<layout table="gpt"><esp/><root format="ext4" verity="yes"/><boot loader="grub"/></layout>',
            "would read the root hash",
        ),
    ],
)
def test_a_layout_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        layout(tmp_path, text)


def test_parts_stand_as_they_are_written(tmp_path: Path) -> None:
    found = layout(tmp_path, '<layout table="gpt"><root/><swap size="2M"/><data size="3M" mount="/srv/"/></layout>')
    assert [(part.kind, part.size, part.mount) for part in found.parts] == [
        ("root", None, "/"),
        ("swap", 2 << 20, "none"),
        ("data", 3 << 20, "/srv"),
    ]
    table = table_of(found, 64 << 20, UNIQUE, {})
    assert [part.offset >> 20 for part in table.partitions] == [1, 65, 67]
    assert table.size == 71 << 20


def test_a_disk_is_as_large_as_its_platform_wants(tmp_path: Path) -> None:
    parts = "<root/></layout>"
    assert table_of(layout(tmp_path, f'<layout table="gpt" multiple="1G">{parts}'), 1 << 30, UNIQUE, {}).size == 2 << 30
    assert table_of(layout(tmp_path, f'<layout table="gpt" size="3G">{parts}'), 1 << 30, UNIQUE, {}).size == 3 << 30
    assert table_of(layout(tmp_path, f'<layout table="none">{parts}'), 1 << 30, UNIQUE, {}).size == 1 << 30


def test_sizes_follow_from_the_node_or_what_is_made(tmp_path: Path) -> None:
    text = '<layout table="gpt"><root size="+5M" format="erofs"/><swap size="25%"/><data size="+1M"/></layout>'
    found = layout(tmp_path, text)
    assert [part.bytes(64 << 20) for part in found.parts] == [None, 16 << 20, None]
    table = table_of(found, 64 << 20, UNIQUE, {0: 9 << 20, 2: 3 << 20})
    assert [part.size >> 20 for part in table.partitions] == [9, 16, 3]


def test_sfdisk_reads_the_mbr(tmp_path: Path) -> None:
    wanted = [Wanted("esp", "", 40 << 20), Wanted("root", "", 100 << 20), Wanted("swap", "", 8 << 20)]
    table, path = arrange(wanted, UNIQUE), tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(table.size)
        file.write(mbr.head(table, b"\x01" * 440))
    read = json.loads(subprocess.run(["/usr/sbin/sfdisk", "--json", path], capture_output=True, check=True).stdout)
    found = read["partitiontable"]
    assert (found["label"], found["id"]) == ("dos", mbr.identifier(table))
    assert [
        (part["type"], part["start"], part["size"], part.get("bootable", False)) for part in found["partitions"]
    ] == [
        ("ef", 2048, 40 << 11, False),
        ("83", 41 << 11, 100 << 11, True),
        ("82", 141 << 11, 8 << 11, False),
    ]
    assert mbr.gap(table) == (1 << 20) - 512


def test_a_verity_root_has_its_hashes_behind_it_and_is_found_by_their_root(tmp_path: Path) -> None:
    text = '<layout table="gpt"><esp/><root format="erofs" verity="yes"/><swap size="1M"/></layout>'
    found = layout(tmp_path, text)
    assert [part.kind for part in found.parts] == ["esp", "root", "verity", "swap"]
    sizes = {0: 64 << 20, 1: 300 << 20, 2: verity.hashes_size(300 << 20)}
    table = table_of(found, 1 << 30, UNIQUE, sizes, "0123456789abcdef" * 4)
    half = "01234567-89ab-cdef-0123-456789abcdef"
    assert [str(part.id) == half for part in table.partitions] == [False, True, True, False]
    assert table.partitions[2].size == 3 << 20


@pytest.mark.parametrize(("blocks", "hashes"), [(1, 0), (2, 1), (128, 1), (129, 3), (128**2, 129), (128**2 + 1, 132)])
def test_a_tree_of_hashes_is_as_large_as_it_must_be(blocks: int, hashes: int) -> None:
    assert verity.hashes_size(blocks * verity.BLOCK) == (1 + hashes) * verity.BLOCK


def test_the_partition_that_boot_code_goes_on_with_is_marked(tmp_path: Path) -> None:
    boot = '<boot loader="extlinux"/></layout>'
    found = layout(tmp_path, f'<layout table="gpt"><data size="8M" mount="/boot"/><root/>{boot}')
    assert [part.active for part in table_of(found, 8 << 20, UNIQUE, {}).partitions] == [True, False]
    found = layout(tmp_path, f'<layout table="gpt"><swap size="8M"/><root/>{boot}')
    assert [part.active for part in table_of(found, 8 << 20, UNIQUE, {}).partitions] == [False, True]


def test_extlinux_starts_the_newest_kernel() -> None:
    names = ("vmlinuz-6.1.0-9", "initrd.img-6.1.0-9", "vmlinuz-6.1.0-10")
    text = extlinux.configuration("", names, "Tiny", ("tty0", "ttyS0"), "root=x", 3)
    assert text.splitlines()[1:] == [
        "SERIAL 0 115200",
        "DEFAULT 6.1.0-10",
        "PROMPT 1",
        "TIMEOUT 30",
        "LABEL 6.1.0-10",
        "  MENU LABEL Tiny, Linux 6.1.0-10",
        "  LINUX /vmlinuz-6.1.0-10",
        "  APPEND root=x",
        "LABEL 6.1.0-9",
        "  MENU LABEL Tiny, Linux 6.1.0-9",
        "  LINUX /vmlinuz-6.1.0-9",
        "  INITRD /initrd.img-6.1.0-9",
        "  APPEND root=x",
    ]
    assert "PROMPT 0" in extlinux.configuration("/boot", names, "Tiny", (), "root=x", 0)


def test_what_an_mbr_cannot_hold() -> None:
    with pytest.raises(ValueError, match="2 TiB"):
        mbr.head(arrange([Wanted("root", "", 3 << 40)], UNIQUE))


def test_an_f2fs_is_sound_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    """As the helper VM makes it, whose kernel need not read it for that."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(200 << 20)
    lines = f"set -e\nguest() {{ false; }}\nuuid={UNIQUE} size={200 << 20} device={image}\n{TYPES['f2fs'].make}"
    subprocess.run(["bash", "-c", lines], check=True, env={"PATH": PLACES})
    assert subprocess.run([tool("blkid"), "-p", "-s", "UUID", "-o", "value", image], capture_output=True, text=True,
                          check=True).stdout.strip() == str(UNIQUE)  # fmt: skip
    check = [tool("fsck.f2fs"), "--dry-run", image]
    subprocess.run(check, check=True, capture_output=True)
    with image.open("r+b") as file:
        for offset in (1024, 4096 + 1024):  # both superblocks (Linux, f2fs_fs.h)
            file.seek(offset)
            file.write(bytes(64))
    assert subprocess.run(check, capture_output=True).returncode != 0


def test_a_size_of_thousands_of_digits_is_none(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a size"):
        layout(tmp_path, f'<layout table="gpt"><root/><data size="{"9" * 5000}"/></layout>')
