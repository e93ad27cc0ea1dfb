"""The verbs of formats that need no VM."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from sfvm import document
from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.format import expand, request
from sfvm.bundle.outputs.archive import Archive
from sfvm.bundle.outputs.checksum import Checksum
from sfvm.bundle.outputs.compress import Compress
from sfvm.bundle.outputs.convert import Convert
from sfvm.bundle.outputs.sign import Sign
from sfvm.bundle.outputs.split import Split
from sfvm.bundle.outputs.tar import Tar
from sfvm.bundle.outputs.template import Template
from sfvm.bundle.packing import MOUNT
from sfvm.bundle.stage import Stage
from sfvm.bundle.sysprep import fstab
from sfvm.document import Element
from sfvm.errors import BundleError, Place, SpecError
from sfvm.spec.expansion import FILESYSTEMS
from sfvm.verbs import registry

PLACE = Place(Path("format.xml"), 1)
CONTENT = b"content" * 1000 + bytes(512 * 1000 - 7000)


def element(directory: Path, text: str) -> Element:
    path = directory / "format.xml"
    path.write_text(text.replace(" ", ' xmlns="urn:sfvm:1" ', 1))
    return document.parse(path)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "out").mkdir()
    for name in ("disk", "tree"):
        (tmp_path / name).write_bytes(CONTENT)
    facts = {"name": "web", "settings": {"memory": "512"}}
    return Stage(tmp_path / "out", Disk(tmp_path / "disk"), None, lambda fraction: None, facts, epoch=7)


@pytest.fixture
def files(stage: Stage, tmp_path: Path) -> Stage:
    """The same for a format without a layout."""
    return replace(stage, disk=None, archive=tmp_path / "tree")


def test_checksums_are_what_sha256sum_checks(stage: Stage, tmp_path: Path) -> None:
    Convert.parse(element(tmp_path, '<convert to="raw" as="a.img"/>')).make(stage)
    Checksum.parse(element(tmp_path, '<checksum as="sums"/>')).make(stage)
    assert subprocess.run(["sha256sum", "--check", "sums"], cwd=stage.directory).returncode == 0
    Checksum.parse(element(tmp_path, '<checksum of="*.img" style="ovf" as="a.mf"/>')).make(stage)
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (stage.directory / "a.mf").read_text() == f"SHA256(a.img)= {digest}\n"


def test_a_checksum_of_nothing_is_an_error(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no artifact is called \*\.vmdk"):
        Checksum.parse(element(tmp_path, '<checksum of="*.vmdk" as="sums"/>')).make(stage)


def test_a_template_knows_settings_and_artifacts(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "t.j2").write_text("{{ name }} {{ settings.memory }} {{ size('a.img') }} {{ '<' }}\n")
    Convert.parse(element(tmp_path, '<convert to="raw" as="a.img"/>')).make(stage)
    Template.parse(element(tmp_path, '<template from="t.j2" as="a.txt"/>')).make(stage)
    Template.parse(element(tmp_path, '<template from="t.j2" as="a.xml"/>')).make(stage)
    assert (stage.directory / "a.txt").read_text() == f"web 512 {len(CONTENT)} <\n"
    assert (stage.directory / "a.xml").read_text() == f"web 512 {len(CONTENT)} &lt;\n"


@pytest.mark.parametrize("text", ["{{ unknown }}", "{% if %}", "{{ size('b') }}", "{{ ''.__class__.__mro__ }}"])
def test_a_wrong_template_is_an_error(stage: Stage, tmp_path: Path, text: str) -> None:
    (tmp_path / "t.j2").write_text(text)
    with pytest.raises(BundleError):
        Template.parse(element(tmp_path, '<template from="t.j2" as="a.txt"/>')).make(stage)


def test_two_bundles_are_not_one_file(stage: Stage, tmp_path: Path) -> None:
    verb = Convert.parse(element(tmp_path, '<convert to="raw" as="a.img"/>'))
    (tmp_path / "other").mkdir()
    other = Stage(tmp_path / "other", stage.disk, None, lambda fraction: None)
    verb.make(stage)
    verb.make(other)
    one, two = stage.directory / "a.img", other.directory / "a.img"
    assert one.read_bytes() == two.read_bytes() == CONTENT
    assert not one.samefile(two)


@pytest.mark.parametrize("name", ["../a", "a/b", "manifest.json", "SHA256SUMS"])
def test_an_artifact_stays_in_its_bundle(stage: Stage, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="cannot be the name"):
        Convert.parse(element(tmp_path, f'<convert to="raw" as="{name}"/>')).make(stage)


@pytest.mark.parametrize(
    ("compression", "tool"), [("none", "cat"), ("gzip", "gzip -dc"), ("xz", "xz -dc"), ("zstd", "zstd -dc")]
)
def test_compressed_archives_are_read_by_others(files: Stage, tmp_path: Path, compression: str, tool: str) -> None:
    Tar.parse(element(tmp_path, f'<tar as="a" compression="{compression}"/>')).make(files)
    with (files.directory / "a").open("rb") as file:
        assert subprocess.run(tool.split(), stdin=file, capture_output=True, check=True).stdout == CONTENT


@pytest.mark.parametrize("name", ["cpio", "erofs", "oci", "squashfs", "tar"])
def test_what_is_made_of_files_goes_without_a_layout(stage: Stage, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="goes without a layout"):
        registry("bundle")[name].parse(element(tmp_path, f'<{name} as="a"/>')).make(stage)
    assert list(stage.directory.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "settings", "needs"),
    [
        ("tar", {}, {"archive"}),
        ("squashfs", {}, {"archive"}),
        ("netboot", {}, {"archive", "kernel"}),
        ("erofs", {}, set()),
        ("oci", {}, {"layers"}),
        ("oci", {"layers": "one"}, {"archive"}),
        ("qcow2", {}, set()),
    ],
)
def test_only_what_a_format_needs_is_made_of_the_node(name: str, settings: dict[str, str], needs: set[str]) -> None:
    assert expand(request(name, settings), "web", {}).needs == needs


def test_what_our_own_code_writes_is_not_read_again(files: Stage, tmp_path: Path) -> None:
    Tar.parse(element(tmp_path, '<tar as="a.gz" compression="gzip"/>')).make(files)
    written = (files.directory / "a.gz").read_bytes()
    (files.directory / "a.gz").write_bytes(b"")  # whoever read it now would tell of this
    assert files.digest("a.gz") == hashlib.sha256(written).hexdigest()


def test_an_artifact_is_read_once_for_all_that_tell_of_it(stage: Stage, tmp_path: Path) -> None:
    Convert.parse(element(tmp_path, '<convert to="raw" as="a.img"/>')).make(stage)
    Checksum.parse(element(tmp_path, '<checksum algorithm="sha512" as="a.sums"/>')).make(stage)
    (stage.directory / "a.img").unlink()
    assert (stage.directory / "a.sums").read_text() == f"{hashlib.sha512(CONTENT).hexdigest()}  a.img\n"
    (tmp_path / "t.j2").write_text("{{ sha256('a.img') }}")
    Template.parse(element(tmp_path, '<template from="t.j2" as="a.txt"/>')).make(stage)
    assert (stage.directory / "a.txt").read_text() == hashlib.sha256(CONTENT).hexdigest()


def test_compression_is_for_qcow2(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="compress is for qcow2"):
        Convert.parse(element(tmp_path, '<convert to="vdi" compress="zlib" as="a"/>'))


def test_fstab_keeps_what_it_does_not_replace() -> None:
    before = "# UNCONFIGURED FSTAB\n/dev/sda1 / ext4 ro 0 1\n# / is root\ntmpfs /tmp tmpfs defaults 0 0\n"
    after = fstab(before, (("UUID=x", "/", "ext4", "defaults", 1),))
    assert after == "# / is root\ntmpfs /tmp tmpfs defaults 0 0\nUUID=x / ext4 defaults 0 1\n"


def test_a_blank_ends_no_field_of_fstab() -> None:
    after = fstab("UUID=y /srv/my\\040data xfs ro 0 0\n", (("UUID=x", "/srv/my data", "ext4", "defaults", 2),))
    assert after == "UUID=x /srv/my\\040data ext4 defaults 0 2\n"


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_where_files_have_one_name_they_are_copied(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """exFAT, and shares of some servers."""

    def refused(*_: object) -> None:
        raise OSError(number, "no links here")

    monkeypatch.setattr(os, "link", refused)
    Convert.parse(element(tmp_path, '<convert to="raw" as="a.img"/>')).make(stage)
    assert (stage.directory / "a.img").read_bytes() == CONTENT


def test_what_is_archived_or_compressed_takes_the_place_of_what_it_was(stage: Stage, tmp_path: Path) -> None:
    Convert.parse(element(tmp_path, '<convert to="raw" as="b.img"/>')).make(stage)
    (stage.new("a.txt", PLACE)).write_text("text")
    Archive.parse(element(tmp_path, '<archive of="*.txt *.img" as="x.tar"/>')).make(stage)
    with tarfile.open(stage.directory / "x.tar") as found:
        assert found.getnames() == ["a.txt", "b.img"]  # in the order of the patterns
        assert {(member.uid, member.gid, member.mode, member.mtime) for member in found} == {(0, 0, 0o644, 7)}
        assert found.extractfile("b.img").read() == CONTENT
    Compress.parse(element(tmp_path, '<compress of="x.tar" with="zstd"/>')).make(stage)
    assert stage.made == ["x.tar.zst"]
    assert [path.name for path in stage.directory.iterdir()] == ["x.tar.zst"]


def test_a_sparse_archive_is_small_and_of_the_format_asked_for(stage: Stage, tmp_path: Path) -> None:
    with stage.new("disk.raw", PLACE).open("wb") as file:
        file.truncate(64 << 20)
        file.write(b"x" * 4096)
    text = '<archive of="disk.raw" format="oldgnu" sparse="yes" as="x.tar"/>'
    Archive.parse(element(tmp_path, text)).make(stage)
    data = (stage.directory / "x.tar").read_bytes()
    assert len(data) < 1 << 20
    assert data[257:265] == b"ustar  \0"  # GNU's magic (tar(5))
    with tarfile.open(stage.directory / "x.tar") as found:
        assert [(member.name, member.size, member.issparse()) for member in found] == [("disk.raw", 64 << 20, True)]


def test_parts_are_the_whole(stage: Stage, tmp_path: Path) -> None:
    Convert.parse(element(tmp_path, '<convert to="raw" as="a.img"/>')).make(stage)
    Split.parse(element(tmp_path, '<split of="a.img" size="200K"/>')).make(stage)
    assert stage.made == ["a.img.000", "a.img.001", "a.img.002"]
    assert b"".join((stage.directory / name).read_bytes() for name in stage.made) == CONTENT


def test_a_signature_is_what_gpg_verifies(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    key = "--quick-generate-key me@example.org ed25519 sign never"
    subprocess.run(["gpg", "--batch", "--passphrase", "", *key.split()], check=True, capture_output=True)
    try:
        Convert.parse(element(tmp_path, '<convert to="raw" as="a.img"/>')).make(stage)
        Sign.parse(element(tmp_path, '<sign of="a.img" key="me@example.org"/>')).make(stage)
        verify = ["gpg", "--batch", "--verify", "a.img.asc", "a.img"]
        assert subprocess.run(verify, cwd=stage.directory, capture_output=True).returncode == 0
        with (stage.directory / "a.img").open("ab") as file:
            file.write(b"more")
        assert subprocess.run(verify, cwd=stage.directory, capture_output=True).returncode == 1
        stage.drop("a.img.asc")
        with pytest.raises(BundleError, match="cannot be signed"):
            Sign.parse(element(tmp_path, '<sign of="a.img" key="nobody@example.org"/>')).make(stage)
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=True)


def test_the_disk_of_every_node_can_be_mounted() -> None:
    assert set(MOUNT) == set(FILESYSTEMS)
