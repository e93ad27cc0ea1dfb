"""Builds whose base comes from somewhere else, as users run them."""

import gzip
import hashlib
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.guests.project import Project
from tests.sources.layouts import Layout, file, pack
from tests.sources.servers import web

pytestmark = pytest.mark.vm
SPEC = """<filesystem xmlns="urn:sfvm:1" name="{name}">
<param name="src"/>
<disk size="256M" format="ext4"/>
<base>{base}</base>
<steps><file path="/step">done
</file></steps>
</filesystem>
"""


def root(home: Path) -> Path:
    """A directory with what a root has."""
    tree = home / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "os-release").write_text("ID=test\n")
    (tree / "etc" / "fstab").write_text("UUID=x / ext4 defaults 0 1\n")
    return tree


def image(home: Path) -> bytes:
    """A qcow2 of a disk without a table."""
    raw, path = home / "d.raw", home / "d.qcow2"
    with raw.open("wb") as disk:
        disk.truncate(32 << 20)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-d", root(home), raw], check=True)
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", raw, path], check=True)
    return path.read_bytes()


def spec(project: Project, name: str, base: str) -> None:
    (project.specs / f"{name}.xml").write_text(SPEC.format(name=name, base=base), encoding="utf-8")


def test_an_image_is_fetched_once_and_never_again(project: Project, tmp_path: Path) -> None:
    content = image(tmp_path)
    spec(project, "cloud", f'<image src="${{src}}" sha256="{hashlib.sha256(content).hexdigest()}"/>')
    with web(content) as server:
        words = ("--param", f"src={server.url}", "cloud")
        project.sfvm("build", *words, environment={"http_proxy": ""})
        assert len(server.requests) == 1
        assert project.cat("cloud", "/etc/os-release") == "ID=test\n"
        assert project.cat("cloud", "/step") == "done\n"
        assert project.cat("cloud", "/etc/fstab") == "# not of this disk: UUID=x / ext4 defaults 0 1\n"
        project.sfvm("rm", "cloud")
        project.sfvm("gc")
        project.sfvm("build", *words)
        assert len(server.requests) == 1
    project.sound()


def test_a_hostile_archive_leaves_nothing_and_says_where(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("../escape"))
    content = gzip.compress(path.read_bytes())
    spec(project, "bad", f'<archive src="${{src}}" sha256="{hashlib.sha256(content).hexdigest()}"/>')
    with web(content) as server:
        done = project.sfvm("build", "--param", f"src={server.url}", "bad", status=1)
    assert "bad.xml:4:" in done.stderr
    assert "d.bin is refused: member '../escape'" in done.stderr
    project.sound()


def test_a_container_image(project: Project) -> None:
    layout = Layout(project.specs / "i.oci")
    layout.index(layout.image(pack([file("etc/hello", "1\n"), file("gone")]), pack([file(".wh.gone")])))
    spec(project, "container", '<oci from="i.oci"/>')
    project.sfvm("build", "--param", "src=", "container")
    assert project.cat("container", "/etc/hello") == "1\n"
    assert project.cat("container", "/gone") == ""
    assert not list((project.home / "repository" / "work").glob("*"))
