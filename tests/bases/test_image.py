"""Disk images as bases: which partition, and what QEMU must never open."""

import hashlib
import json
import struct
import subprocess
from pathlib import Path

import pytest

from sfvm.errors import SpecError
from tests.bases.test_partitions import MIB, disk
from tests.verbs import Maker

GPT = "label: gpt\nstart=2048,size=8M,type=uefi\nsize=16M,type=linux\nsize=24M,type=linux\n"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fill(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def element(path: Path, more: str = "") -> str:
    return f'<image from="{path.name}" sha256="{sha(path)}" {more}/>'


def layout(make: Maker, name: str = "d.raw", script: str = GPT) -> Path:
    make.specs.mkdir(exist_ok=True)
    path = disk(make.specs / name, script)
    for number, start in enumerate((1, 9, 25), start=1):
        fill(path, start * MIB, f"partition {number}".encode())
    return path


def content(prepared: Path) -> bytes:
    """How the disk *prepared* begins, as qemu-img reads it."""
    raw = prepared.with_suffix(".check")
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", prepared, raw], check=True)
    with raw.open("rb") as file:
        return file.read(11)


@pytest.mark.parametrize("form", ["raw", "qcow2"])
@pytest.mark.parametrize(("more", "number"), [("", 3), ('partition="2"', 2), ('partition="1"', 1)])
def test_one_partition_becomes_the_disk(make: Maker, form: str, more: str, number: int) -> None:
    path = layout(make)
    if form == "qcow2":
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", path, make.specs / "d.qcow2"], check=True)
        path = make.specs / "d.qcow2"
    work = make.home / "a,b=c"
    prepared = make(element(path, more), "bases").prepare(work, 1 << 30, "ext4")
    assert content(prepared) == f"partition {number}".encode()
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", prepared]))
    assert (info["format"], info["virtual-size"]) == ("qcow2", 1 << 30)
    assert "backing-filename" not in info
    assert {file.name for file in work.iterdir()} == {prepared.name, prepared.with_suffix(".check").name}


def test_a_disk_without_a_table_is_the_filesystem(make: Maker) -> None:
    make.specs.mkdir()
    path = make.specs / "d.raw"
    with path.open("wb") as file:
        file.truncate(16 * MIB)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", path], check=True)
    prepared = make(element(path), "bases").prepare(make.home, 32 * MIB, "ext4")
    raw = make.home / "back.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", prepared, raw], check=True)
    assert raw.read_bytes()[: 16 * MIB] == path.read_bytes()


@pytest.mark.parametrize(
    ("script", "more", "size", "what"),
    [
        (GPT, 'partition="7"', 1 << 30, "has no partition 7"),
        (GPT, 'partition="0"', 1 << 30, "has no partition 0"),
        (GPT, "", 16 * MIB, "the partition has 24 MiB, the spec's disk 16 MiB"),
        ("label: gpt\ntype=uefi\n", "", 1 << 30, "has no Linux partition"),
    ],
)
def test_what_does_not_fit(make: Maker, script: str, more: str, size: int, what: str) -> None:
    base = make(element(layout(make, script=script), more), "bases")
    with pytest.raises(SpecError, match=what) as caught:
        base.prepare(make.home / "work", size, "ext4")
    assert caught.value.hint
    assert list((make.home / "work").iterdir()) == []


def test_a_table_that_reaches_beyond_the_disk(make: Maker) -> None:
    path = layout(make, script="label: dos\nstart=2048,size=60M,type=83\n")
    with path.open("r+b") as file:
        file.truncate(32 * MIB)
    with pytest.raises(SpecError, match="reaches beyond its disk"):
        make(element(path), "bases").prepare(make.home / "work", 1 << 30, "ext4")


def test_a_damaged_table(make: Maker) -> None:
    path = layout(make)
    fill(path, 512, b"\0" * 512)
    with pytest.raises(SpecError, match=r"partition table of d\.raw cannot be read"):
        make(element(path), "bases").prepare(make.home / "work", 1 << 30, "ext4")


def hostile(make: Maker, options: list[str]) -> Path:
    make.specs.mkdir(exist_ok=True)
    path = make.specs / "evil.qcow2"
    secret = make.home / "secret"
    secret.write_bytes(b"secret".ljust(MIB))
    words = [word.replace("SECRET", str(secret)) for word in options]
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *words, path, "1M"], check=True)
    secret.unlink()  # whoever opens it fails
    return path


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-b", "SECRET", "-F", "raw"], "backing"),
        (["-o", "data_file=SECRET"], "another file"),
    ],
)
def test_an_image_that_names_another_file_is_refused_before_a_build(make: Maker, options: list[str], why: str) -> None:
    path = hostile(make, options)
    error = make.refused(element(path), "bases")
    assert "is refused" in error.what
    assert why in f"{error.why}"
    with pytest.raises(SpecError, match="is refused"):
        make(element(path), "bases").prepare(make.home / "work", 1 << 30, "ext4")


@pytest.mark.parametrize("damage", [0, 5, 200], ids=["magic only", "cut version", "cut header"])
def test_a_damaged_qcow2_is_not_taken_for_raw(make: Maker, damage: int) -> None:
    make.specs.mkdir()
    path = make.specs / "d.qcow2"
    path.write_bytes(b"QFI\xfb" + struct.pack(">I", 3)[:damage] + b"\xff" * max(damage - 4, 0))
    assert "no valid qcow2" in make.refused(element(path), "bases").what


@pytest.mark.parametrize("form", ["vmdk", "vdi", "vhdx", "vpc"])
def test_other_formats_are_told(make: Maker, form: str) -> None:
    make.specs.mkdir()
    path = make.specs / f"d.{form}"
    subprocess.run(["qemu-img", "create", "-q", "-f", form, path, "4M"], check=True)
    error = make.refused(element(path), "bases")
    assert f"d.{form} is a V" in error.what
    assert "qemu-img convert" in str(error.hint)


def test_what_counts(make: Maker) -> None:
    path = layout(make)
    base = make(f'<image from="d.raw" sha256="{sha(path).upper()}" partition="2" release="12"/>', "bases")
    assert base.inputs() == {"sha256": sha(path), "partition": 2, "facts": {"release": "12"}}
    assert base.facts() == {"release": "12"}
    assert base.title() == "image d.raw"
    fill(path, 9 * MIB, b"changed")
    with pytest.raises(SpecError, match=r"d\.raw is not what the spec expects"):
        base.inputs()
