"""The verbs of formats that need no VM."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from sfvm import document
from sfvm.bundle.bundler import _require_ours
from sfvm.bundle.checksum import Checksum
from sfvm.bundle.compose import Disk
from sfvm.bundle.convert import Convert
from sfvm.bundle.layout import Layout
from sfvm.bundle.stage import Stage
from sfvm.bundle.sysprep import fstab
from sfvm.bundle.tar import Tar
from sfvm.bundle.template import Template
from sfvm.document import Element
from sfvm.errors import BundleError, SpecError

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
    return Stage(tmp_path / "out", Disk(tmp_path / "disk"), tmp_path / "tree", lambda fraction: None, facts)


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
def test_compressed_archives_are_read_by_others(stage: Stage, tmp_path: Path, compression: str, tool: str) -> None:
    Tar.parse(element(tmp_path, f'<tar as="a" compression="{compression}"/>')).make(stage)
    with (stage.directory / "a").open("rb") as file:
        assert subprocess.run(tool.split(), stdin=file, capture_output=True, check=True).stdout == CONTENT


def test_what_our_own_code_writes_is_not_read_again(stage: Stage, tmp_path: Path) -> None:
    Tar.parse(element(tmp_path, '<tar as="a.gz" compression="gzip"/>')).make(stage)
    written = (stage.directory / "a.gz").read_bytes()
    (stage.directory / "a.gz").write_bytes(b"")  # whoever read it now would tell of this
    assert stage.digest("a.gz") == hashlib.sha256(written).hexdigest()


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


def test_a_layout_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="too small"):
        Layout.parse(element(tmp_path, '<layout table="gpt"><esp size="8M"/><root/></layout>'))
    with pytest.raises(SpecError, match="no place"):
        Layout.parse(element(tmp_path, '<layout table="gpt"><root/><boot loader="grub"/></layout>'))


def test_fstab_keeps_what_it_does_not_replace() -> None:
    before = "# UNCONFIGURED FSTAB\n/dev/sda1 / ext4 ro 0 1\n# / is root\ntmpfs /tmp tmpfs defaults 0 0\n"
    after = fstab(before, (("UUID=x", "/", "ext4", "defaults", 1),))
    assert after == "# / is root\ntmpfs /tmp tmpfs defaults 0 0\nUUID=x / ext4 defaults 0 1\n"


def test_only_a_bundle_is_replaced(tmp_path: Path) -> None:
    _require_ours(tmp_path / "missing")
    (tmp_path / "mine").mkdir()
    with pytest.raises(BundleError, match="is in the way"):
        _require_ours(tmp_path / "mine")
    (tmp_path / "mine" / "SHA256SUMS").touch()
    _require_ours(tmp_path / "mine")
