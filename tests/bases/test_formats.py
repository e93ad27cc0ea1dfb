"""Disk images by their bytes: what each is, and what QEMU must never open."""

import hashlib
import struct
import subprocess
from pathlib import Path

import pytest

from sfvm.bases._formats import identify
from sfvm.errors import Place, SpecError
from tests.verbs import Maker, host

MIB = 1 << 20
PLACE = Place(Path("spec.xml"), 3)


def create(path: Path, form: str, *options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *options, path, "4M"], check=True)
    return path


def fill(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def refused(path: Path) -> str:
    with pytest.raises(SpecError) as caught:
        identify(path, path.name, PLACE)
    assert caught.value.place == PLACE
    assert caught.value.hint
    return f"{caught.value.what}: {caught.value.why}"


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("raw", ()),
        ("qcow2", ()),
        ("vmdk", ("-o", "subformat=monolithicSparse")),
        ("vmdk", ("-o", "subformat=streamOptimized")),
        ("vdi", ()),
        ("vhdx", ()),
        ("vpc", ()),
    ],
)
def test_what_is_read(tmp_path: Path, form: str, options: tuple[str, ...]) -> None:
    assert identify(create(tmp_path / "d", form, *options), "d", PLACE) == form


def test_a_fixed_vhd_is_raw_with_a_footer(tmp_path: Path) -> None:
    assert identify(create(tmp_path / "d", "vpc", "-o", "subformat=fixed"), "d", PLACE) == "raw"


@pytest.mark.parametrize(
    ("form", "options", "why"),
    [
        ("qcow2", ("-b", "SECRET", "-F", "raw"), "names the backing file"),
        ("qcow2", ("-o", "data_file=SECRET"), "another file"),
        ("vmdk", ("-b", "PARENT", "-F", "vmdk"), "it names a parent"),
        ("vmdk", ("-o", "subformat=monolithicFlat"), "only names other files"),
        ("vmdk", ("-o", "subformat=twoGbMaxExtentSparse"), "only names other files"),
        ("qed", (), "QED"),
    ],
)
def test_what_names_another_file(tmp_path: Path, form: str, options: tuple[str, ...], why: str) -> None:
    secret, parent = tmp_path / "secret", tmp_path / "parent.vmdk"
    secret.write_bytes(b"secret".ljust(4 * MIB))
    create(parent, "vmdk")
    words = [word.replace("SECRET", str(secret)).replace("PARENT", str(parent)) for word in options]
    path = create(tmp_path / "d", form, *words)
    secret.unlink()
    parent.unlink()  # whoever opens them fails
    assert why in refused(path)


def test_a_vmdk_whose_descriptor_inside_names_extents(tmp_path: Path) -> None:
    """QEMU takes those when the header has no capacity; the descriptor is wherever the header says."""
    path = create(tmp_path / "d", "vmdk")
    fill(path, 12, struct.pack("<Q", 0))
    assert "only names other files" in refused(path)


@pytest.mark.parametrize("offset", [512 + 4000, 3 * MIB])
def test_a_parent_anywhere_in_the_descriptor(tmp_path: Path, offset: int) -> None:
    path = create(tmp_path / "d", "vmdk")
    fill(path, offset, b'PARENTFileNameHint="/etc/passwd"\n')
    if offset > MIB:
        fill(path, 28, struct.pack("<QQ", offset // 512, 20))
    assert "it names a parent" in refused(path)


@pytest.mark.parametrize("at", [1 << 63, (1 << 64) - 1])
def test_a_vmdk_with_a_descriptor_beyond_the_world(tmp_path: Path, at: int) -> None:
    path = create(tmp_path / "d", "vmdk")
    fill(path, 28, struct.pack("<QQ", at, at))
    assert identify(path, "d", PLACE) == "vmdk"  # its own, where QEMU looks, is fine


def test_a_vhd_with_a_parent(tmp_path: Path) -> None:
    path = create(tmp_path / "d", "vpc")
    fill(path, 60, struct.pack(">I", 4))
    assert "VHD over a parent" in refused(path)


@pytest.mark.parametrize("start", [b"\xfd7zXZ\0", b"\x1f\x8b\x08", b"BZh9", b"\x28\xb5\x2f\xfd"])
def test_compressed(tmp_path: Path, start: bytes) -> None:
    (tmp_path / "d.raw.x").write_bytes(start.ljust(4096))
    assert "it is compressed" in refused(tmp_path / "d.raw.x")


@pytest.mark.parametrize(
    "content", [b"QFI\xfb", b"QFI\xfb" + struct.pack(">I", 3) + b"\xff" * 200, b"KDMV\1\0\0\0", b"conectix"]
)
def test_cut_off(tmp_path: Path, content: bytes) -> None:
    """Never taken for raw."""
    (tmp_path / "d").write_bytes(content)
    assert "d is" in refused(tmp_path / "d") or "no valid qcow2" in refused(tmp_path / "d")


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_refused_before_a_build_when_it_is_there(make: Maker) -> None:
    path = create(make.specs / "d.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    error = make.refused(f'<image from="d.vmdk" sha256="{sha(path)}"/>', "bases")
    assert error.what == "d.vmdk is refused"


def test_a_fetched_image_is_looked_at_as_well(make: Maker, tmp_path: Path) -> None:
    path = create(tmp_path / "elsewhere" / "d.qcow2", "qcow2", "-o", "data_file=" + str(tmp_path / "raw"))
    base = make(f'<image src="file://{path}" sha256="{sha(path)}"/>', "bases")
    assert base.inputs()["sha256"] == sha(path), "a plan opens nothing"
    with pytest.raises(SpecError, match=r"d\.qcow2 is refused"):
        base.prepare(host(make.home))


def test_what_counts(make: Maker) -> None:
    path = create(make.specs / "d.raw", "raw")
    words = f'sha256="{sha(path).upper()}" partition="2" subvolume="@" release="12"'
    base = make(f'<image from="d.raw" {words}/>', "bases")
    expected = {"sha256": sha(path), "partition": 2, "subvolume": "@", "facts": {"release": "12"}}
    assert base.inputs() == expected
    assert make(f'<image src="http://h.invalid/d.raw" {words}/>', "bases").inputs() == expected, "the URL does not"
    assert base.facts() == {"release": "12"}
    assert base.title() == "image d.raw"
    assert [(disk.path.name, disk.format) for disk in base.prepare(host(make.home))] == [("d.raw", "raw")]
    fill(path, 9, b"changed")
    with pytest.raises(SpecError, match=r"d\.raw is not what the spec expects"):
        base.inputs()
