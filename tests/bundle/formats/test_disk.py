"""Disks of every layout, made of a tiny guest by the command line and judged by tools that sfvm did not write."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import pytest

from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Drive, Shape
from sfvm.config import Settings
from sfvm.events import ignore
from sfvm.guest import CommandFailed
from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers.tools import tool

pytestmark = pytest.mark.vm

NODE = """
set -e
mkdir -p /srv/www /var/log
echo page >/srv/www/index; chown 1234:5678 /srv/www/index; chmod 4755 /srv/www/index
ln -s index /srv/www/soft
echo log >/var/log/messages
echo kept >/kept
mkdir -p /boot; echo kernel >/boot/kernel
"""
LAYOUTS = {
    "mbr": '<layout table="mbr"><root/><swap size="8M"/><data size="32M" mount="/srv"/>'
    '<data size="40M" format="vfat" mount="/var/log"/></layout>',
    "none": '<layout table="none"><root/></layout>',
    "ext4": '<layout table="gpt"><root size="+10M" grow="yes"/></layout>',
    "half": '<layout table="gpt"><root size="50%"/></layout>',
    "xfs": '<layout table="gpt"><root format="xfs" size="+20M"/></layout>',
    "btrfs": '<layout table="gpt"><root format="btrfs" size="+20M"><subvolume path="/srv"/>'
    '<subvolume path="/var/log"/></root></layout>',
    "squashfs": '<layout table="gpt"><data size="+8M" format="xfs" mount="/srv"/><root format="squashfs"/></layout>',
    "erofs": '<layout table="mbr"><root format="erofs" size="+1M"/><data format="squashfs" size="4M" mount="/srv"/>'
    "</layout>",
    "lvm": '<layout table="gpt"><data size="16M" mount="/boot"/><lvm group="vg0"><swap size="8M"/>'
    '<root format="xfs" size="320M"/><data size="32M" mount="/srv" name="served"/></lvm></layout>',
    "thin": '<layout table="mbr"><lvm group="vg1" thin="pool0" size="120M"><root/>'
    '<data size="200M" mount="/srv"/></lvm></layout>',
    "raid": '<layout table="gpt"><raid><root/></raid><raid><data size="32M" mount="/srv"/></raid></layout>',
    "verity": '<layout table="gpt"><root format="erofs" verity="yes"/><data size="8M" mount="/srv"/></layout>',
    "checked": '<layout table="gpt"><root format="ext4" size="+8M" verity="yes"/></layout>',
    "boot": '<layout table="gpt"><data size="16M" mount="/boot"/><root/></layout>',
}


@pytest.fixture(scope="module")
def disks(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The node in every layout, as raw disks."""
    with project_of(tmp_path_factory.mktemp("disks"), seed) as made:
        (made.home / "formats").mkdir()
        for name, layout in LAYOUTS.items():
            write(made, name, layout)
        made.write("node", "busybox", f'<run network="no">{NODE}</run>')
        made.sfvm("build", "node")
        made.sfvm("bundle", "node", *LAYOUTS, "--output", "out", timeout=900)
        yield made


def write(project: Project, name: str, layout: str) -> None:
    """A format that is the disk alone."""
    head = f'<format xmlns="urn:sfvm:1" name="{name}"><summary>{name}</summary>'
    text = f'{head}{layout}<convert to="raw" as="disk"/></format>'
    (project.home / "formats" / f"{name}.xml").write_text(text)


def disk(project: Project, name: str) -> Path:
    return project.home / "out" / f"node-{name}" / "disk"


def run(name: str, *words: str | Path) -> str:
    done = subprocess.run([tool(name), *map(str, words)], check=True, capture_output=True, text=True)
    return done.stdout


def partitions(project: Project, name: str) -> list[Path]:
    """The partitions of a disk, cut out where sfdisk says they are."""
    image = disk(project, name)
    found = json.loads(run("sfdisk", "--json", image))["partitiontable"]["partitions"]
    targets = []
    for number, partition in enumerate(found):
        target = project.home / f"{name}.{number}"
        targets.append(target)
        if not target.exists():
            where = (f"skip={partition['start']}", f"count={partition['size']}")
            run("dd", f"if={image}", f"of={target}", "bs=512", "conv=sparse", "status=none", *where)
    return targets


def cat(image: Path, path: str) -> str:
    return run("debugfs", "-R", f"cat {path}", image)


def probe(image: Path, what: str) -> str:
    return run("blkid", "-p", "-s", what, "-o", "value", image).strip()


def test_an_mbr_disk_has_its_parts_and_what_belongs_on_them(disks: Project) -> None:
    root, swap, srv, log = partitions(disks, "mbr")
    assert "No errors" in run("sfdisk", "--verify", disk(disks, "mbr"))
    for image in (root, srv):
        run("e2fsck", "-fn", image)
    assert cat(root, "/kept") == "kept\n"
    assert cat(srv, "/www/index") == "page\n"
    assert cat(root, "/srv/www/index") == cat(root, "/var/log/messages") == ""
    stat = run("debugfs", "-R", "stat /www/index", srv)
    assert "Mode:  04755" in stat
    assert "User:  1234   Group:  5678" in stat
    assert run("debugfs", "-R", "stat /www/soft", srv).count('"index"') == 1
    assert run("mtype", "-i", log, "::messages") == "log\n"
    assert (probe(swap, "TYPE"), probe(log, "TYPE")) == ("swap", "vfat")
    fstab = [line.split() for line in cat(root, "/etc/fstab").splitlines()]
    assert [line[:3] for line in fstab] == [
        [f"UUID={probe(root, 'UUID')}", "/", "ext4"],
        [f"UUID={probe(swap, 'UUID')}", "none", "swap"],
        [f"UUID={probe(srv, 'UUID')}", "/srv", "ext4"],
        [f"UUID={probe(log, 'UUID')}", "/var/log", "vfat"],
    ]


def test_what_e2fsck_says_of_a_damaged_part_is_heard(disks: Project, tmp_path: Path) -> None:
    _, _, srv, _ = partitions(disks, "mbr")
    data = bytearray(srv.read_bytes())
    data[1024 + 12] ^= 0xFF  # s_free_blocks_count (ext4's superblock)
    (tmp_path / "damaged").write_bytes(data)
    assert subprocess.run([tool("e2fsck"), "-fn", tmp_path / "damaged"], capture_output=True).returncode != 0


def test_a_disk_without_a_table_is_its_filesystem(disks: Project) -> None:
    image = disk(disks, "none")
    run("e2fsck", "-fn", image)
    assert cat(image, "/srv/www/index") == "page\n"
    assert cat(image, "/etc/fstab").split()[:3] == [f"UUID={probe(image, 'UUID')}", "/", "ext4"]


def listed(project: Project, name: str) -> list[str]:
    """Types of the partitions, as sfdisk knows them."""
    table = json.loads(run("sfdisk", "--json", disk(project, name)))["partitiontable"]
    return [part["type"].lower() for part in table["partitions"]]


@pytest.fixture(scope="module")
def reader(disks: Project, image: Image) -> Iterator[Callable[[str, str], str]]:
    """Runs a script in a VM that has all disks: ``$disk`` is that of a layout, ``$disk1`` its first partition; /mnt is
    there to mount on. Linux itself reads what was made."""
    names = (*LAYOUTS, "broken-lvm")
    drives = [Drive(disk(disks, name), "raw", readonly=True) for name in LAYOUTS]
    drives.append(Drive(broken_lvm(disks), "raw", readonly=True))
    settings = Settings(repository=disks.home / "repository", cache=platformdirs.user_cache_path("sfvm"))
    with launch(image, drives, Shape(), settings, log=lambda line: None, listener=ignore) as appliance:

        def read(name: str, script: str) -> str:
            device = appliance.device(names.index(name))
            return appliance.run(f"disk=$(readlink -f {device})\nmkdir -p /run/mnt; ln -sfn /run/mnt /mnt\n{script}")

        yield read


def broken_lvm(project: Project) -> Path:
    """The disk with LVM, with another bit in its label (lvm2, ``lib/label/label.h``: sector 1, which has a sum)."""
    target = project.home / "broken-lvm"
    run("cp", "--sparse=always", disk(project, "lvm"), target)
    table = json.loads(run("sfdisk", "--json", target))["partitiontable"]
    with target.open("r+b") as file:
        file.seek(table["partitions"][1]["start"] * 512 + 512)
        assert file.read(8) == b"LABELONE"
        file.seek(32, 1)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    return target


FILES = """
cd /run/mnt
cat kept srv/www/index srv/www/soft var/log/messages
stat -c '%u:%g %a' srv/www/index
readlink srv/www/soft
cat etc/fstab
"""
WANTED = ["kept", "page", "page", "log", "1234:5678 4755", "index"]


@pytest.mark.parametrize(
    ("name", "kind", "check"),
    [
        ("ext4", "ext4", ("e2fsck", "-fn")),
        ("half", "ext4", ("e2fsck", "-fn")),
        ("xfs", "xfs", ("xfs_repair", "-n")),
        ("btrfs", "btrfs", ("btrfs", "check")),
        ("erofs", "erofs", ("fsck.erofs",)),
        ("squashfs", "squashfs", ("unsquashfs", "-ll")),
    ],
)
def test_a_root_of_another_type_has_the_files(
    disks: Project, reader: Callable[[str, str], str], tmp_path: Path, name: str, kind: str, check: tuple[str, ...]
) -> None:
    images = partitions(disks, name)
    number = next(number for number, image in enumerate(images) if probe(image, "TYPE") == kind)
    other = 1 - number
    run(*check, images[number])
    mount = f"mount -o ro ${{disk}}{number + 1} /run/mnt\n"
    if len(images) > 1:
        mount += (
            f"mount -o ro,norecovery ${{disk}}{other + 1} /run/mnt/srv || mount ${{disk}}{other + 1} /run/mnt/srv\n"
        )
    *files, fstab = reader(name, mount + FILES).split("\n", len(WANTED))
    assert files == WANTED
    source = fstab.split()[:3]
    if kind == "squashfs":
        table = json.loads(run("sfdisk", "--json", disk(disks, name)))["partitiontable"]
        assert source == [f"PARTUUID={table['partitions'][number]['uuid'].lower()}", "/", "squashfs"]
    else:
        assert source == [f"UUID={probe(images[number], 'UUID')}", "/", kind]
    # And what was damaged is found by the same program.
    data = bytearray(images[number].read_bytes())
    for at in (0, 65536):  # btrfs' superblock is at 64 KiB
        for place in range(at, min(at + 4096, len(data))):
            data[place] ^= 0x5A
    (tmp_path / "damaged").write_bytes(data)
    done = subprocess.run([tool(check[0]), *check[1:], tmp_path / "damaged"], capture_output=True)
    assert done.returncode != 0


def test_a_disk_is_as_large_as_its_files_need(disks: Project) -> None:
    node = disk(disks, "none").stat().st_size
    assert disk(disks, "half").stat().st_size == (node // 2 + (2 << 20))
    assert disk(disks, "erofs").stat().st_size < 16 << 20
    assert disk(disks, "ext4").stat().st_size < node


def test_subvolumes_are_in_fstab_and_are_subvolumes(reader: Callable[[str, str], str]) -> None:
    script = "mount -o ro ${disk}1 /run/mnt\nbtrfs subvolume list /run/mnt | sed 's/.* path //'\ncat /run/mnt/etc/fstab"
    lines = reader("btrfs", script).splitlines()
    assert set(lines[:2]) == {"srv", "var/log"}
    assert [line.split()[1:4] for line in lines[3:]] == [["/srv", "btrfs", "subvol=/srv"],
                                                         ["/var/log", "btrfs", "subvol=/var/log"]]  # fmt: skip
    mounted = reader("btrfs", "mount -o ro,subvol=/srv ${disk}1 /run/mnt\ncat /run/mnt/www/index")
    assert mounted == "page\n"


def test_a_boot_partition_has_what_was_in_boot(disks: Project) -> None:
    boot, root = partitions(disks, "boot")
    assert listed(disks, "boot")[0] == "bc13c2ff-59e6-4262-a352-b275fd6f7172"  # XBOOTLDR
    assert cat(boot, "/kernel") == "kernel\n"
    assert cat(root, "/boot/kernel") == ""


LVM = "lvm() { /usr/sbin/lvm \"$@\" --config 'activation { udev_sync=0 udev_rules=0 }' 2>/dev/null; }\n"


@pytest.mark.parametrize(
    ("name", "group", "partition", "names", "root"),
    [("lvm", "vg0", 2, "root served swap", "xfs"), ("thin", "vg1", 1, "data0 pool0 root", "ext4")],
)
def test_a_volume_group_is_found_with_its_volumes(
    disks: Project, reader: Callable[[str, str], str], name: str, group: str, partition: int, names: str, root: str
) -> None:
    assert listed(disks, name)[partition - 1] in ("e6d6d379-f507-44c2-a23c-238f2a3df928", "8e")
    srv = names.split()[1 if name == "lvm" else 0]
    script = (
        LVM
        + f"""
    lvm pvck ${{disk}}{partition} >/dev/null
    lvm lvs --noheadings -o lv_name {group} | xargs
    lvm vgchange -ay {group} >/dev/null
    trap 'cd /; umount -R /run/mnt; lvm vgchange -an {group} >/dev/null' EXIT
    mount -o ro,{"norecovery" if root == "xfs" else "noload"} /dev/mapper/{group}-root /run/mnt
    mount -o ro,noload /dev/mapper/{group}-{srv} /run/mnt/srv
    """
    )
    told, *files = reader(name, script + FILES).splitlines()
    assert told == names
    assert files[: len(WANTED)] == WANTED
    assert files[len(WANTED)].split()[:3] == [f"/dev/mapper/{group}-root", "/", root]


def test_a_damaged_label_of_lvm_is_refused(reader: Callable[[str, str], str]) -> None:
    script = LVM + "lvm pvck ${disk}2 >/dev/null"
    reader("lvm", script)
    with pytest.raises(CommandFailed):
        reader("broken-lvm", script)


def test_a_damaged_half_of_a_mirror_is_refused(disks: Project, tmp_path: Path) -> None:
    """Its superblock, 4 KiB from the beginning, has a sum (Linux, ``md_p.h``)."""
    half = partitions(disks, "raid")[0]
    run("mdadm", "--examine", half)
    data = bytearray(half.read_bytes())
    data[4096 + 40] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    done = subprocess.run([tool("mdadm"), "--examine", tmp_path / "damaged"], capture_output=True, text=True)
    assert done.returncode != 0 or "expected" in done.stdout


def test_a_mirror_is_assembled_of_either_half(disks: Project, reader: Callable[[str, str], str]) -> None:
    halves = partitions(disks, "raid")
    assert set(listed(disks, "raid")) == {"a19d880f-05fc-4d3b-a006-743f0f84911e"}
    told = [run("mdadm", "--examine", "--export", half) for half in halves]
    assert all("MD_LEVEL=raid1" in text and "MD_DEVICES=2" in text for text in told)
    assert len({line for text in told for line in text.splitlines() if line.startswith("MD_UUID")}) == 2
    for member in (1, 2):
        script = f"""
        modprobe raid1
        mdadm --quiet --assemble --run --readonly /dev/md50 ${{disk}}{member}
        mdadm --quiet --assemble --run --readonly /dev/md51 ${{disk}}{member + 2}
        trap 'cd /; umount -R /run/mnt; mdadm --quiet --stop /dev/md50 /dev/md51' EXIT
        mount -o ro,noload /dev/md50 /run/mnt
        mount -o ro,noload /dev/md51 /run/mnt/srv
        """
        assert reader("raid", script + FILES).splitlines()[: len(WANTED)] == WANTED


@pytest.mark.parametrize(("name", "kind"), [("verity", "erofs"), ("checked", "ext4")])
def test_a_changed_byte_is_found(
    disks: Project, reader: Callable[[str, str], str], tmp_path: Path, name: str, kind: str
) -> None:
    root, hashes = partitions(disks, name)[:2]
    known = json.loads((disk(disks, name).parent / "manifest.json").read_text())["roothash"]
    table = json.loads(run("sfdisk", "--json", disk(disks, name)))["partitiontable"]["partitions"]
    assert "".join(part["uuid"].replace("-", "").lower() for part in table[:2]) == known
    assert [part["type"].lower() for part in table[:2]] == [
        "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
        "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    ]
    run("veritysetup", "verify", root, hashes, known)
    data = bytearray(root.read_bytes())
    data[-4096] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    done = subprocess.run([tool("veritysetup"), "verify", tmp_path / "damaged", hashes, known], capture_output=True)
    assert done.returncode != 0
    # Linux reads it through the hashes, and nothing else than what was written.
    script = f"""
    export DM_DISABLE_UDEV=1
    modprobe dm-verity; modprobe -q erofs
    veritysetup open ${{disk}}1 checked ${{disk}}2 {known}
    trap 'umount /run/mnt; veritysetup close checked' EXIT
    mount -o ro -t {kind} /dev/mapper/checked /run/mnt
    cat /run/mnt/kept /run/mnt/etc/fstab"""
    kept, fstab = reader(name, script).splitlines()[:2]
    assert kept == "kept"
    assert fstab.split()[:4] == ["/dev/mapper/root", "/", kind, "ro"]


def root_hash(disks: Project, where: str, **environment: str) -> str:
    shutil.rmtree(disks.home / "repository" / "finished")
    disks.sfvm("bundle", "node", "verity", "--output", where, environment=environment)
    return str(json.loads((disks.home / where / "node-verity" / "manifest.json").read_text())["roothash"])


def test_the_root_hash_follows_from_the_node(disks: Project) -> None:
    known = json.loads((disks.home / "out" / "node-verity" / "manifest.json").read_text())["roothash"]
    assert root_hash(disks, "again") == known


def test_the_root_hash_follows_from_the_node_though_clocks_are_late(disks: Project) -> None:
    tomorrow = str(int(time.time()) + 86400)
    first, second = (root_hash(disks, where, SOURCE_DATE_EPOCH=tomorrow) for where in ("first", "second"))
    assert first == second


def test_what_does_not_fit_says_what_it_needs(disks: Project) -> None:
    write(disks, "small", '<layout table="gpt"><root/><data size="1M" format="btrfs" mount="/srv"/></layout>')
    disks.write("full", "busybox", '<run network="no">mkdir /srv; head -c 3000000 /dev/urandom >/srv/x</run>')
    disks.sfvm("build", "full")
    done = disks.sfvm("bundle", "full", "small", "--output", "out", status=1)
    assert "the part for /srv is too small" in done.stderr
    assert 'size="+100M"' in done.stderr


def test_nothing_is_moved_through_a_symlink_of_the_guest(disks: Project) -> None:
    write(disks, "linked", '<layout table="gpt"><root/><data size="8M" mount="/srv/www"/></layout>')
    disks.write("linked", "busybox", '<run network="no">rm -rf /srv; ln -s /etc /srv</run>')
    disks.sfvm("build", "linked")
    assert "is a symlink" in disks.sfvm("bundle", "linked", "linked", "--output", "out", status=1).stderr
