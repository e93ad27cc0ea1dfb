"""Streams of VMDK: what others read of them, where they end, and that nothing but the disk decides what they are."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import subprocess
import uuid
from pathlib import Path

import pytest

from sfvm import document
from sfvm.bundle import vmdk
from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.outputs.vmdk_stream import VmdkStream
from sfvm.bundle.stage import Stage
from sfvm.errors import BundleError
from tests.peers.disks import Refused, same, unpacked
from tests.peers.tools import tool

MIB = 1 << 20
SECTOR = 512
VERB = '<vmdk-stream xmlns="urn:sfvm:1" adapter="lsilogic" hardware="17" as="d.vmdk"/>'


SIZE = 97 * MIB + 48 * SECTOR
"""No whole number of grains, but of what dissect.hypervisor reads at a time."""


def content(disk: Path, size: int = SIZE) -> Path:
    """Noise, text, zeros that are no hole, holes, a whole grain table without data, and a last grain that is none."""
    dice = random.Random(1)
    with disk.open("wb") as file:
        file.truncate(size)
        file.write(b"\xeb" * SECTOR)
        for offset, data in (
            (MIB + 7 * SECTOR, dice.randbytes(200_000)),
            (3 * MIB, bytes(5 * MIB)),
            (31 * MIB, b"text of a file\n" * 200_000),  # into the second grain table
            (size - 5, b"ended"),
        ):
            file.seek(offset)
            file.write(data)
    return disk


def stage_of(directory: Path, disk: Path, identity: int = 1) -> Stage:
    directory.mkdir()
    return Stage(directory, Disk(disk), None, lambda fraction: None, identity=uuid.UUID(int=identity))


def made(stage: Stage, text: str = VERB) -> Path:
    path = stage.directory.with_suffix(".xml")
    path.write_text(text)
    VmdkStream.parse(document.parse(path)).make(stage)
    return stage.directory / "d.vmdk"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return content(tmp_path / "disk")


@pytest.fixture
def image(tmp_path: Path, disk: Path) -> Path:
    return made(stage_of(tmp_path / "out", disk))


def end_of_stream(image: Path) -> int:
    """The sector after the end-of-stream marker, which is found as a reader of streams finds it: from marker to
    marker. 0 when there is none."""
    data = image.read_bytes()
    (sector,) = struct.unpack_from("<Q", data, 64)
    while (sector + 1) * SECTOR <= len(data):
        value, size, kind = struct.unpack_from("<QII", data, sector * SECTOR)
        if size:
            sector += -(-(12 + size) // SECTOR)
        elif kind:
            sector += 1 + value
        else:
            return sector + 1
    return 0


def test_it_ends_with_the_end_of_the_stream(image: Path) -> None:
    assert end_of_stream(image) * SECTOR == image.stat().st_size
    assert image.read_bytes()[-SECTOR:] == bytes(SECTOR)


def test_qemus_own_streams_do_not(disk: Path, tmp_path: Path) -> None:
    """Why there is a writer of ours; when this fails, qemu-img has been mended."""
    theirs = tmp_path / "qemu.vmdk"
    options = ("-O", "vmdk", "-o", "subformat=streamOptimized")
    subprocess.run(["qemu-img", "convert", "-f", "raw", *options, disk, theirs], check=True)
    assert end_of_stream(theirs) * SECTOR != theirs.stat().st_size


def test_others_read_what_is_on_the_disk(image: Path, disk: Path, tmp_path: Path) -> None:
    subprocess.run(["qemu-img", "check", image], check=True)
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "vmdk", disk, image], check=True)
    assert same(disk, image)
    assert unpacked(image, "vmdk", tmp_path / "7").read_bytes() == disk.read_bytes()
    told = subprocess.run([tool("vmdkinfo"), image], check=True, capture_output=True, text=True).stdout
    assert "Stream optimized" in told
    assert f"({disk.stat().st_size} bytes)" in told


def test_others_refuse_what_is_damaged(image: Path, disk: Path, tmp_path: Path) -> None:
    whole = image.read_bytes()
    for number, damaged in enumerate((whole[:-SECTOR], whole + bytes(64 * SECTOR), whole[:70_000] + whole[70_001:])):
        image.write_bytes(damaged)
        assert subprocess.run(["qemu-img", "check", image], capture_output=True).returncode, number
        with pytest.raises(Refused):
            unpacked(image, "vmdk", tmp_path / str(number))
    position = vmdk.OVERHEAD * SECTOR + 12 + 30  # within the first grain, which is deflated behind its marker
    image.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
    with pytest.raises(Refused, match="Data Error"):
        unpacked(image, "vmdk", tmp_path / "data")


def test_the_descriptor_says_what_was_asked_for(image: Path) -> None:
    text = image.read_bytes()[SECTOR : 21 * SECTOR].rstrip(b"\0").decode()
    assert 'createType="streamOptimized"' in text
    assert f'RW {SIZE // SECTOR} SPARSE "d.vmdk"' in text
    assert 'ddb.adapterType = "lsilogic"' in text
    assert 'ddb.virtualHWVersion = "17"' in text
    assert 'ddb.toolsVersion = "2147483647"' in text


def test_equal_disks_are_equal_streams(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled = tmp_path / "filled"
    filled.write_bytes(disk.read_bytes())  # no holes
    found = []
    for number, (count, source) in enumerate(((1, disk), (2, filled), (5, disk))):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        found.append(made(stage_of(tmp_path / str(number), source)).read_bytes())
    assert found[0] == found[1] == found[2]
    other = made(stage_of(tmp_path / "other", disk, identity=2)).read_bytes()
    assert other[:SECTOR] == found[0][:SECTOR]
    assert other[21 * SECTOR :] == found[0][21 * SECTOR :]
    assert other != found[0]  # the content's identifier is the node's


def test_its_digest_is_known_without_reading_it(disk: Path, tmp_path: Path) -> None:
    stage = stage_of(tmp_path / "out", disk)
    data = made(stage).read_bytes()
    assert stage.known["d.vmdk", "sha256"] == hashlib.sha256(data).hexdigest()


def test_an_empty_disk_is_tables_alone(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(1 << 40)  # holes are not read: this takes no time
    image = made(stage_of(tmp_path / "out", disk))
    assert image.stat().st_size < 1 * MIB
    subprocess.run(["qemu-img", "check", image], check=True)
    assert end_of_stream(image) * SECTOR == image.stat().st_size


def test_given_up_it_ends(disk: Path, tmp_path: Path) -> None:
    def enough(fraction: float) -> None:
        raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        made(Stage(tmp_path / "out", Disk(disk), None, enough))


def test_more_than_its_tables_can_say_is_an_error(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vmdk, "LARGEST", 300)
    with pytest.raises(BundleError, match=r"d\.vmdk cannot be a VMDK"):
        made(stage_of(tmp_path / "out", disk))
