"""Partition tables, read back by tools that are not ours."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from sfvm.bundle import gpt

SBIN = "/usr/sbin:/sbin"
WANTED = [
    ("BIOS boot", gpt.BIOS_BOOT, 1 << 20, 0),
    ("EFI system", gpt.ESP, 64 << 20, 0),
    ("root", gpt.LINUX_ROOT["x86_64"], (1 << 30) + 512, gpt.GROW_FILE_SYSTEM),
]


@pytest.fixture
def disk(tmp_path: Path) -> tuple[Path, gpt.Table]:
    table, path = gpt.arrange(WANTED), tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(table.size)
        file.write(gpt.head(table, b"\x01" * 440))
        end = gpt.tail(table)
        file.seek(table.size - len(end))
        file.write(end)
    return path, table


def test_sfdisk_reads_what_was_wanted(disk: tuple[Path, gpt.Table]) -> None:
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
    ] == [(part.name, str(part.type), str(part.id), part.offset, part.size) for part in table.partitions]
    assert "59" in found["partitions"][2]["attrs"]
    checked = subprocess.run([sfdisk, "--verify", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_backup_alone_is_enough(disk: tuple[Path, gpt.Table]) -> None:
    path, table = disk
    with path.open("r+b") as file:
        file.seek(gpt.SECTOR)
        file.write(bytes(gpt.SECTOR))
    sfdisk = shutil.which("sfdisk", path=SBIN)
    assert sfdisk
    read = json.loads(subprocess.run([sfdisk, "--json", path], capture_output=True, check=True).stdout)
    assert read["partitiontable"]["id"].lower() == str(table.id)


def test_partitions_are_aligned_and_apart() -> None:
    table = gpt.arrange(WANTED)
    end = 1 << 20
    for part in table.partitions:
        assert part.offset % gpt.ALIGNMENT == part.size % gpt.ALIGNMENT == 0
        assert part.offset >= end
        end = part.offset + part.size
    assert end + len(gpt.tail(table)) <= table.size


def test_identifiers_are_fresh() -> None:
    one, other = gpt.arrange(WANTED), gpt.arrange(WANTED)
    assert one.id != other.id
    assert not {part.id for part in one.partitions} & {part.id for part in other.partitions}


def test_boot_code_stands_before_the_table() -> None:
    table = gpt.arrange(WANTED)
    sector = gpt.head(table, b"\x01" * 440)[:512]
    assert sector[:440] == b"\x01" * 440
    assert sector[450] == 0xEE
    assert sector[510:] == b"\x55\xaa"
    with pytest.raises(ValueError, match="440 fit"):
        gpt.head(table, b"\x01" * 441)
