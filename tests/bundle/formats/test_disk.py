"""Disks of every layout, made of a tiny guest by the command line and judged by tools that sfvm did not write."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

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
"""
LAYOUTS = {
    "mbr": '<layout table="mbr"><root/><swap size="8M"/><data size="32M" mount="/srv"/>'
    '<data size="40M" format="vfat" mount="/var/log"/></layout>',
    "none": '<layout table="none"><root/></layout>',
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
