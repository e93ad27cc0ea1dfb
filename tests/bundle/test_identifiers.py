"""What qemu-img draws at random is made to follow from the node, and QEMU and others still read it."""

from __future__ import annotations

import re
import subprocess
import uuid
from pathlib import Path

import pytest

from sfvm import document
from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.identifiers import crc32c, settle
from sfvm.bundle.outputs.convert import Convert
from sfvm.bundle.stage import Stage
from tests.peers.disks import Refused, same, unpacked
from tests.peers.tools import tool

MIB = 1 << 20
KINDS = ("vdi", "vhdx", "vmdk")
VHDS = ("dynamic", "fixed")
VMDKS = ("monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # in order, then
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(64 * MIB)
        for offset in (0, 5 * MIB, 63 * MIB):
            file.seek(offset)
            file.write(f"data at {offset}".encode() * 9000)
    return path


def converted(disk: Path, directory: Path, kind: str, *, identity: int = 1, subformat: str = "") -> Stage:
    directory.mkdir()
    path = directory.with_suffix(".xml")
    more = f' subformat="{subformat}"' if subformat else ""
    path.write_text(f'<convert xmlns="urn:sfvm:1" to="{kind}"{more} as="d.{kind}"/>')
    stage = Stage(
        directory, Disk(disk), None, lambda fraction: None, identity=uuid.UUID(int=identity), epoch=1_700_000_000
    )
    Convert.parse(document.parse(path)).make(stage)
    return stage


def content(stage: Stage) -> dict[str, bytes]:
    return {name: (stage.directory / name).read_bytes() for name in stage.made}


@pytest.mark.parametrize(
    ("kind", "subformat"),
    [("vdi", ""), ("vhdx", ""), *(("vmdk", name) for name in VMDKS), *(("vpc", name) for name in VHDS)],
)
def test_equal_disks_of_a_node_are_equal_files(disk: Path, tmp_path: Path, kind: str, subformat: str) -> None:
    one, two = (converted(disk, tmp_path / name, kind, subformat=subformat) for name in ("one", "two"))
    other = converted(disk, tmp_path / "other", kind, subformat=subformat, identity=2)
    assert content(one) == content(two)
    assert content(one)[f"d.{kind}"] != content(other)[f"d.{kind}"]
    assert set(one.made) == {path.name for path in one.directory.iterdir()}  # extents are artifacts, too


@pytest.mark.parametrize("subformat", ["monolithicSparse", "monolithicFlat"])
def test_a_short_identifier_of_qemu_leaves_nothing(disk: Path, tmp_path: Path, subformat: str) -> None:
    """What qemu-img writes when it draws a number below 16^6: block/vmdk.c, vmdk_write_cid."""
    path = converted(disk, tmp_path / "out", "vmdk", subformat=subformat).directory / "d.vmdk"
    settled = path.read_bytes()
    begin = settled.index(b"# Disk DescriptorFile")
    text = settled[begin:].partition(b"\0")[0]
    short = re.sub(rb"(?m)^CID=.{8}", b"CID=1234", text)
    path.write_bytes(settled[:begin] + short + b"\0" + text[len(short) + 1 :] + settled[begin + len(text) :])
    settle(path, "vmdk", uuid.uuid5(uuid.UUID(int=1), "d.vmdk"))
    assert path.read_bytes() == settled


@pytest.mark.parametrize("kind", KINDS)
def test_others_read_it(disk: Path, tmp_path: Path, kind: str) -> None:
    image = converted(disk, tmp_path / "out", kind).directory / f"d.{kind}"
    subprocess.run(["qemu-img", "check", "-f", kind, image], check=True)
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", kind, disk, image], check=True)
    assert unpacked(image, kind, tmp_path / "7").read_bytes() == disk.read_bytes()
    assert kind == "vdi" or same(disk, image)  # its reader of VDI does not read more than a block at a time


@pytest.mark.parametrize(("kind", "offset"), [("vdi", 0x44), ("vhdx", 192 << 10), ("vmdk", 70)])
def test_others_refuse_what_is_damaged(disk: Path, tmp_path: Path, kind: str, offset: int) -> None:
    image = converted(disk, tmp_path / "out", kind).directory / f"d.{kind}"
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 8)
    with pytest.raises(Refused):
        unpacked(image, kind, tmp_path / "7")


def test_a_wrong_checksum_of_a_vhdx_is_seen(disk: Path, tmp_path: Path) -> None:
    """So the ones that are written are right."""
    image = converted(disk, tmp_path / "out", "vhdx").directory / "d.vhdx"
    for offset in (64 << 10, 128 << 10):
        with image.open("r+b") as file:
            file.seek(offset + 20)
            file.write(b"?")
    assert subprocess.run(["qemu-img", "check", "-f", "vhdx", image], capture_output=True).returncode == 1
    with pytest.raises(Refused):
        unpacked(image, "vhdx", tmp_path / "7")


@pytest.mark.parametrize("subformat", VHDS)
def test_others_read_a_vhd_and_refuse_a_damaged_one(disk: Path, tmp_path: Path, subformat: str) -> None:
    """Its size is rounded up to whole cylinders."""
    stage = converted(disk, tmp_path / "out", "vpc", subformat=subformat)
    image = stage.directory / "d.vpc"
    told = subprocess.run([tool("vhdiinfo"), image], capture_output=True, text=True, check=True).stdout
    assert str(stage.uuid("d.vpc")) in told.lower()
    assert unpacked(image, "vhd", tmp_path / "7").read_bytes().startswith(disk.read_bytes())
    with image.open("r+b") as file:
        for offset in (0, -512):
            file.seek(offset + 24, 2 if offset else 0)  # the time: the sum is wrong then
            file.write(b"\xff" * 4)
    with pytest.raises(Refused):
        unpacked(image, "vhd", tmp_path / "broken")


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
