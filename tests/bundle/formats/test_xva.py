"""XVA files, read by xva-img, GNU tar and Python's XML-RPC."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
import uuid
import xmlrpc.client
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.outputs.xva import CHUNK, Xva
from sfvm.bundle.stage import Stage
from sfvm.errors import BundleError, Place
from tests.guests.project import Project
from tests.peers.tools import tool

PLACE = Place(Path("format.xml"), 1)
CHUNKS = 64
DATA = {5: b"data", 7: b"more", 8: os.urandom(CHUNK), 40: b"and more"}
"""What is in the chunks of the disk that are not zeros."""
VERB = Xva("web.xva", 512 << 20, 2, "a <network>", "", "bios", PLACE)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(CHUNKS * CHUNK)
        for number, data in DATA.items():
            file.seek(number * CHUNK)
            file.write(data)
        file.seek(20 * CHUNK)
        file.write(bytes(CHUNK))  # zeros that are no hole
    return path


@pytest.fixture
def stage(tmp_path: Path, disk: Path) -> Stage:
    (tmp_path / "out").mkdir()
    facts = {"name": "web", "key": "ab12"}
    return Stage(
        tmp_path / "out", Disk(disk), None, lambda fraction: None, facts, identity=uuid.UUID(int=1), epoch=86400
    )


@pytest.fixture
def xva(stage: Stage) -> Path:
    VERB.make(stage)
    return stage.directory / "web.xva"


def unpacked(xva: Path, work: Path) -> Path:
    """The directory with the disk's members."""
    directory = work / "unpacked"
    directory.mkdir()
    subprocess.run(["tar", "--extract", f"--file={xva}", f"--directory={directory}"], check=True)
    (found,) = directory.glob("Ref:*")
    return found


def exported(members: Path, target: Path) -> str:
    """What xva-img says against the disk that it makes of *members*; empty when it has made one."""
    words = [tool("xva-img"), "disk-export", f"{members}/", target]
    done = subprocess.run(words, capture_output=True, text=True)
    return done.stdout + done.stderr if done.returncode else ""


def description(xva: Path) -> dict[str, Any]:
    """ova.xml as Python's XML-RPC reads it."""
    with tarfile.open(xva) as archive:
        first = archive.next()
        assert first is not None
        assert first.name == "ova.xml"
        text = archive.extractfile(first).read().decode()  # type: ignore[union-attr]
    answer = f"<methodResponse><params><param>{text}</param></params></methodResponse>"
    ((found,), _) = xmlrpc.client.loads(answer)
    return found  # type: ignore[return-value]


def test_xva_img_makes_the_same_disk_of_it(xva: Path, disk: Path, tmp_path: Path) -> None:
    assert exported(unpacked(xva, tmp_path), tmp_path / "again") == ""
    assert (tmp_path / "again").read_bytes() == disk.read_bytes()


def test_xva_img_refuses_a_changed_chunk(xva: Path, tmp_path: Path) -> None:
    members = unpacked(xva, tmp_path)
    with (members / "00000005").open("r+b") as file:
        file.write(b"X")
    assert "invalid checksum" in exported(members, tmp_path / "again")


def test_the_members_are_as_xapi_reads_them(xva: Path) -> None:
    with tarfile.open(xva) as archive:
        members = archive.getmembers()
    names = [f"Ref:002/{number:08d}" for number in (0, *DATA, CHUNKS - 1)]  # the first and the last one, always
    assert [member.name for member in members] == [
        "ova.xml",
        *(n for name in names for n in (name, name + ".checksum")),
    ]
    assert {member.size for member in members[1::2]} == {CHUNK}
    assert {(member.mode, member.uid, member.mtime) for member in members} == {(0o644, 0, 86400)}
    data = xva.read_bytes()
    assert data[257:263] == b"ustar\0"
    assert data[-1024:] == bytes(1024)
    with tarfile.open(xva) as archive:
        digest = archive.extractfile("Ref:002/00000008.checksum").read()  # type: ignore[union-attr]
    assert digest.decode() == hashlib.sha1(DATA[8]).hexdigest()


def test_the_description_is_whole(xva: Path) -> None:
    found = description(xva)
    assert set(found["version"]) == {"hostname", "date", "product_version", "product_brand", "build_number",
                                     "xapi_major", "xapi_minor", "export_vsn"}  # fmt: skip
    objects = {item["id"]: item for item in found["objects"]}
    by_class = {item["class"]: item["snapshot"] for item in found["objects"]}
    assert set(by_class) == {"VM", "SR", "VDI", "VBD", "network", "VIF"}
    machine = by_class["VM"]
    assert (machine["name_label"], machine["memory_static_max"], machine["VCPUs_max"]) == ("web", str(512 << 20), "2")
    assert machine["HVM_boot_params"] == {"order": "cd", "firmware": "bios"}
    assert machine["is_a_template"] is False
    assert by_class["network"]["name_label"] == "a <network>"
    assert int(by_class["VDI"]["virtual_size"]) == CHUNKS * CHUNK
    assert objects[by_class["VBD"]["VDI"]]["class"] == "VDI"
    for record in by_class.values():  # no reference leads nowhere
        texts = [text for value in record.values() for text in (value if isinstance(value, list) else [value])]
        assert {text for text in texts if isinstance(text, str) and text.startswith("Ref:")} <= set(objects)
    uuids = [record["uuid"] for record in by_class.values()]
    assert len(set(uuids)) == len(uuids)


def test_a_broken_description_is_refused(xva: Path) -> None:
    xva.write_bytes(xva.read_bytes().replace(b"</struct>", b"</strict>", 1))
    with pytest.raises(xmlrpc.client.expat.ExpatError):
        description(xva)


def test_the_same_node_is_the_same_file(stage: Stage, xva: Path) -> None:
    replace(VERB, name="again.xva").make(stage)
    assert (stage.directory / "again.xva").read_bytes() == xva.read_bytes()
    assert stage.digest("web.xva") == hashlib.sha256(xva.read_bytes()).hexdigest()


def test_uefi_has_a_device_model_of_its_own(stage: Stage) -> None:
    replace(VERB, firmware="uefi", label="other").make(stage)
    machine = next(item["snapshot"] for item in description(stage.directory / "web.xva")["objects"])
    assert machine["HVM_boot_params"]["firmware"] == "uefi"
    assert machine["platform"]["device-model"] == "qemu-upstream-uefi"
    assert machine["name_label"] == "other"


@pytest.mark.parametrize("size", [1, CHUNK, CHUNK + 512])
def test_a_small_disk_ends_with_a_whole_chunk(tmp_path: Path, stage: Stage, size: int) -> None:
    (tmp_path / "small").write_bytes(b"x" * size)
    VERB.make(replace(stage, disk=Disk(tmp_path / "small"), made=[], known={}))
    xva = stage.directory / "web.xva"
    with tarfile.open(xva) as archive:
        numbers = [member.name for member in archive if member.name.startswith("Ref") and "." not in member.name]
    chunks = -(-size // CHUNK)
    assert numbers == [f"Ref:002/{number:08d}" for number in range(chunks)]
    virtual = [item["snapshot"].get("virtual_size") for item in description(xva)["objects"]]
    assert str(chunks * CHUNK) in virtual


def test_without_a_disk_there_is_none(stage: Stage) -> None:
    with pytest.raises(BundleError, match="needs a disk"):
        VERB.make(replace(stage, disk=None))


@pytest.mark.vm
def test_a_node_is_exported_as_the_raw_disk(project: Project, tmp_path: Path) -> None:
    words = (
        "--set",
        "boot=none",
        "--set",
        "memory=2048",
        "--set",
        "compression=gzip",
        "--output",
        str(tmp_path / "out"),
    )
    project.sfvm("bundle", "busybox", "xva", "raw", *words)
    packed = tmp_path / "out" / "busybox-xva" / "busybox.xva.gz"
    xva = tmp_path / "busybox.xva"
    with xva.open("wb") as file:
        subprocess.run([tool("gzip"), "-dc", packed], stdout=file, check=True)
    assert exported(unpacked(xva, tmp_path), tmp_path / "again") == ""
    raw = tmp_path / "out" / "busybox-raw" / "busybox.img"
    compare = ["qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "again", raw]
    assert b"identical" in subprocess.run(compare, capture_output=True, check=True).stdout
    assert description(xva)["objects"][0]["snapshot"]["memory_static_max"] == str(2048 << 20)
