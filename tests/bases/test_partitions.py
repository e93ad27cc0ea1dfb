"""Partition tables as other tools write them."""

import io
import json
import struct
import subprocess
from pathlib import Path

import pytest

from sfvm.bases import _partitions
from sfvm.bases._partitions import Damaged, Partition

MIB = 1 << 20


def disk(path: Path, script: str, size: int = 64 * MIB) -> Path:
    """A raw disk with the table that sfdisk makes of *script*."""
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run(["/usr/sbin/sfdisk", "-q", str(path)], input=script, text=True, check=True)
    return path


def read(path: Path) -> tuple[Partition, ...]:
    with path.open("rb") as file:
        return _partitions.read(file)


def test_gpt(tmp_path: Path) -> None:
    script = "label: gpt\nstart=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649\nsize=8M,type=uefi\n"
    path = disk(tmp_path / "d", script + "type=linux\n")
    assert [(p.number, p.linux) for p in read(path)] == [(1, False), (2, False), (3, True)]
    table = json.loads(subprocess.check_output(["/usr/sbin/sfdisk", "--json", str(path)]))
    sizes = [(entry["start"] * 512, entry["size"] * 512) for entry in table["partitiontable"]["partitions"]]
    assert [(p.offset, p.size) for p in read(path)] == sizes


def test_gpt_with_gaps_keeps_its_numbers(tmp_path: Path) -> None:
    """As cloud images have it: the root is partition 1, the others are 14 and 15, and lie before it."""
    lines = [
        "label: gpt",
        "d14 : start=2048,size=2048,type=21686148-6449-6E6F-744E-656564454649",
        "d15 : start=4096,size=16384,type=uefi",
        "d1 : start=20480,type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    ]
    path = disk(tmp_path / "d", "\n".join(lines) + "\n")
    assert [(p.number, p.offset, p.linux) for p in read(path)] == [
        (1, 10 * MIB, True),
        (14, MIB, False),
        (15, 2 * MIB, False),
    ]


def test_mbr(tmp_path: Path) -> None:
    path = disk(tmp_path / "d", "label: dos\nstart=2048,size=4M,type=c\nsize=20M,type=83,bootable\nsize=8M,type=5\n")
    assert read(path) == (Partition(1, MIB, 4 * MIB, False), Partition(2, 5 * MIB, 20 * MIB, True))


def test_a_filesystem_without_a_table(tmp_path: Path) -> None:
    path = tmp_path / "ext4"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", str(path)], check=True)
    assert read(path) == ()


def test_a_boot_sector_is_no_table() -> None:
    """A FAT, or a boot loader without partitions, ends with the same signature; its code stands where a table would."""
    sector = b"\xeb\x3c\x90MSDOS5.0".ljust(446, b"\0") + b"no system disk, press a key".ljust(64) + b"\x55\xaa"
    assert len(sector) == 512
    assert _partitions.read(io.BytesIO(sector + bytes(4096))) == ()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 4096])
def test_nothing(content: bytes) -> None:
    assert _partitions.read(io.BytesIO(content)) == ()


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw.__setitem__(slice(512, 520), b"NOT PART"),
        lambda raw: raw.__setitem__(slice(592, 596), struct.pack("<I", 1 << 30)),
        lambda raw: raw.__setitem__(slice(596, 600), struct.pack("<I", 16)),
        lambda raw: raw.__setitem__(slice(584, 592), struct.pack("<Q", 1 << 40)),
        lambda raw: raw.__delitem__(slice(600, None)),
    ],
    ids=["signature", "number of entries", "size of entries", "place of entries", "cut"],
)
def test_a_damaged_gpt_is_not_taken_for_none(tmp_path: Path, damage: object) -> None:
    raw = bytearray(disk(tmp_path / "d", "label: gpt\ntype=linux\n").read_bytes())
    assert callable(damage)
    damage(raw)
    with pytest.raises(Damaged):
        _partitions.read(io.BytesIO(raw))
