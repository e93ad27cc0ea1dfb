"""Partition tables, read back by tools that are not ours."""

import json
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

from sfvm.bundle.disk import gpt
from sfvm.bundle.disk.partitions import ALIGNMENT, SECTOR, Table, Wanted, arrange

SBIN = "/usr/sbin:/sbin"
UNIQUE = uuid.UUID("5f9d6a2e-7c1b-4a55-9b0e-1f2a3b4c5d6e")
WANTED = [
    Wanted("bios-boot", "BIOS boot", 1 << 20),
    Wanted("esp", "EFI system", 64 << 20),
    Wanted("root", "root", (1 << 30) + 512, grow=True),
]


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, Table]:
    table, path = arrange(WANTED, UNIQUE), tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(table.size)
        file.write(gpt.head(table, "x86_64", b"\x01" * 440))
        end = gpt.tail(table, "x86_64")
        file.seek(table.size - len(end))
        file.write(end)
    return path, table


def test_sfdisk_reads_what_was_wanted(disk: tuple[Path, Table]) -> None:
    path, table = disk
    sfdisk = shutil.which("sfdisk", path=SBIN)
    assert sfdisk
    read = json.loads(subprocess.run([sfdisk, "--json", path], capture_output=True, check=True).stdout)
    found = read["partitiontable"]
    assert found["label"] == "gpt"
    assert found["id"].lower() == str(table.id)
    assert [
        (entry["name"], entry["type"].lower(), entry["uuid"].lower(), entry["start"] * 512, entry["size"] * 512)
        for entry in found["partitions"]
    ] == [
        (part.name, str(gpt.partition_type(part.kind, "x86_64")), str(part.id), part.offset, part.size)
        for part in table.partitions
    ]
    assert "59" in found["partitions"][2]["attrs"]
    checked = subprocess.run([sfdisk, "--verify", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_backup_alone_is_enough(disk: tuple[Path, Table]) -> None:
    path, table = disk
    with path.open("r+b") as file:
        file.seek(SECTOR)
        file.write(bytes(SECTOR))
    sfdisk = shutil.which("sfdisk", path=SBIN)
    assert sfdisk
    read = json.loads(subprocess.run([sfdisk, "--json", path], capture_output=True, check=True).stdout)
    assert read["partitiontable"]["id"].lower() == str(table.id)


def test_partitions_are_aligned_and_apart() -> None:
    table = arrange(WANTED, UNIQUE)
    end = 1 << 20
    for part in table.partitions:
        assert part.offset % ALIGNMENT == part.size % ALIGNMENT == 0
        assert part.offset >= end
        end = part.offset + part.size
    assert end + len(gpt.tail(table, "x86_64")) <= table.size


def test_identifiers_follow_from_the_disk() -> None:
    one, same, other = arrange(WANTED, UNIQUE), arrange(WANTED, UNIQUE), arrange(WANTED, uuid.uuid4())
    assert one == same
    assert len({part.id for part in one.partitions}) == len(WANTED)
    assert not {part.id for part in one.partitions} & {part.id for part in other.partitions}


def test_boot_code_stands_before_the_table() -> None:
    table = arrange(WANTED, UNIQUE)
    sector = gpt.head(table, "x86_64", b"\x01" * 440)[:512]
    assert sector[:440] == b"\x01" * 440
    assert sector[450] == 0xEE
    assert sector[510:] == b"\x55\xaa"
    with pytest.raises(ValueError, match="440 fit"):
        gpt.head(table, "x86_64", b"\x01" * 441)
