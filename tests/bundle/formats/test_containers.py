"""Containers for LXC, Incus and systemd-nspawn."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from sfvm.errors import Place
from tests.bundle.formats.trees import stage, tree, verb
from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers.tools import tool

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root makes containers of this kind")
PLACE = Place(Path("format.xml"), 1)
ARCHITECTURES = ("x86_64", "i686", "armv7l", "aarch64", "ppc64le", "s390x", "riscv64")


def run(*words: str | Path, status: int = 0, **more: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)  # type: ignore[call-overload]
    assert done.returncode == status, done.stderr
    return str(done.stdout + done.stderr)


def incus_reads(path: Path) -> tuple[str, dict[str, object]]:
    """What Incus reads of an image, by the rules of its getImageMetadata (lxc/incus, cmd/incusd/images.go): the kind
    and the metadata.

    :raises ValueError: it would refuse the image
    """
    kind, metadata = "", None
    with tarfile.open(path) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            if name == "metadata.yaml":
                content = tar.extractfile(member)
                assert content is not None
                metadata = yaml.safe_load(content.read(1 << 20))
            elif name == "rootfs" or name.startswith("rootfs/"):
                kind = "container"
            elif name == "rootfs.img":
                kind = "virtual-machine"
            if kind and metadata is not None:
                break
    if metadata is None or not kind:
        raise ValueError("metadata.yaml or the rootfs: Not found in archive")
    if metadata.get("architecture") not in ARCHITECTURES:
        raise ValueError("the architecture is missing")
    if not isinstance(metadata.get("creation_date"), int) or metadata["creation_date"] <= 0:
        raise ValueError("the creation date is missing")
    return kind, metadata


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    """A directory with what tar writes into extended headers."""
    files = tmp_path / "files"
    deep = files / ("long" * 20) / ("name" * 20)
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    os.link(deep / "file", files / "another")
    (files / "link").symlink_to("../" + "far" * 40)
    (files / "é\n").write_text("é")
    os.setxattr(files / "é\n", "user.binary", b"\x00\xff\xfe=\n\x80")
    return files


@pytest.mark.parametrize("program", ["tar", "bsdtar"])
def test_files_put_below_a_directory_are_the_same_files(tmp_path: Path, awkward: Path, program: str) -> None:
    archive = tmp_path / "tree.tar"
    words = ("--format=posix", "--sort=name", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner")
    run("tar", "-C", awkward, *words, "-cf", archive, ".")
    made = stage(tmp_path, archive)
    made.new("note", PLACE).write_text("first")
    verb(tmp_path, '<tar as="a.tar" below="rootfs" first="templates/note"/>').make(made)
    assert [path.name for path in made.directory.iterdir()] == ["a.tar"]
    out = tmp_path / "unpacked"
    out.mkdir()
    run(tool(program), "--xattrs", "-C", out, "-xpf", made.directory / "a.tar")
    run("diff", "-r", "--no-dereference", awkward, out / "rootfs")
    assert (out / "templates/note").read_text() == "first"
    assert os.getxattr(out / "rootfs/é\n", "user.binary") == b"\x00\xff\xfe=\n\x80"
    assert (out / "rootfs/another").samefile(next((out / "rootfs").glob("long*/name*/file")))
    assert (out / "rootfs/link").stat(follow_symlinks=False).st_mtime == (awkward / "link").lstat().st_mtime


def test_devices_are_left_out_when_the_format_says_so(tmp_path: Path) -> None:
    made = stage(tmp_path, tree(tmp_path / "tree.tar"))
    verb(tmp_path, '<tar as="a.tar" devices="no"/>').make(made)
    names = run(tool("bsdtar"), "-tf", made.directory / "a.tar").split()
    assert "./dev/" in names
    assert "./dev/null" not in names


@pytest.fixture(scope="module")
def bundled(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_of(tmp_path_factory.mktemp("containers"), seed) as made:
        made.write(
            "web",
            "busybox",
            '<file path="/usr/lib/os-release">ID=web\nNAME=Web\n</file>',
            '<run network="no">mknod /dev/thing c 1 3; echo plain >/plain; chown 12:34 /plain; chmod 4750 /plain</run>',
        )
        made.sfvm("build", "web")
        made.sfvm("bundle", "web", "lxc", "incus", "nspawn", "--output", str(made.home / "out"))
        options = ("--set", "boot=none", "--output", str(made.home / "disks"))
        made.sfvm("bundle", "web", "incus", "--set", "type=vm", *options)
        made.sfvm("bundle", "web", "nspawn", "--set", "type=raw", *options)
        yield made


@pytest.mark.vm
def test_a_container_image_is_what_incus_reads(bundled: Project, tmp_path: Path) -> None:
    image = bundled.home / "out/web-incus/web.tar.xz"
    kind, metadata = incus_reads(image)
    assert kind == "container"
    assert metadata["properties"]["os"] == "busybox"  # type: ignore[index]
    names = run("tar", "-tJf", image).split()
    assert names[:3] == ["metadata.yaml", "templates/hostname.tpl", "rootfs/"]
    assert "rootfs/bin/busybox" in names
    assert "rootfs/dev/thing" not in names
    assert run("tar", "-xJOf", image, "templates/hostname.tpl") == "{{ container.name }}\n"
    broken = tmp_path / "broken.tar"
    with tarfile.open(broken, "w") as tar:
        tar.add(image, "image/metadata.yaml")
    with pytest.raises(ValueError, match="Not found in archive"):
        incus_reads(broken)


@pytest.mark.vm
def test_a_virtual_machine_image_is_what_incus_reads(bundled: Project, tmp_path: Path) -> None:
    image = bundled.home / "disks/web-incus/web.tar.xz"
    kind, metadata = incus_reads(image)
    assert kind == "virtual-machine"
    assert metadata["properties"]["requirements.secureboot"] == "false"  # type: ignore[index]
    run("tar", "-C", tmp_path, "-xJf", image, "rootfs.img")
    assert json.loads(run("qemu-img", "info", "--output=json", tmp_path / "rootfs.img"))["format"] == "qcow2"


@pytest.mark.vm
@root_only
def test_lxc_creates_a_container_of_it(bundled: Project, tmp_path: Path) -> None:
    made = bundled.home / "out/web-lxc"
    words = (tool("lxc-create"), "-P", tmp_path, "-t", "local")
    files = ("--", "--metadata", made / "meta.tar.xz", "--fstree")
    assert "made by sfvm" in run(*words, "-n", "web", *files, made / "rootfs.tar.xz")
    plain = tmp_path / "web/rootfs/plain"
    assert (plain.stat().st_uid, plain.stat().st_gid, plain.stat().st_mode & 0o7777) == (12, 34, 0o4750)
    config = (tmp_path / "web/config").read_text()
    assert "lxc.arch = x86_64" in config
    assert "LXC_TEMPLATE_CONFIG" not in config
    assert "STOPPED" in run(tool("lxc-info"), "-P", tmp_path, "-n", "web")  # liblxc has read the configuration
    broken = tmp_path / "broken.tar.xz"
    broken.write_bytes((made / "rootfs.tar.xz").read_bytes()[:-1000])
    run(*words, "-n", "broken", *files, broken, status=1)


@pytest.mark.vm
@root_only
def test_nspawn_runs_a_program_of_it(bundled: Project, tmp_path: Path) -> None:
    run("tar", "-C", tmp_path, "-xJf", bundled.home / "out/web-nspawn/web.tar.xz")
    words = (tool("systemd-nspawn"), "--quiet", "--register=no", "--keep-unit", "-D", tmp_path)
    told = run(*words, "/bin/busybox", "cat", "/plain")
    assert "plain" in told.splitlines()
    (tmp_path / "usr").rename(tmp_path / "lost")
    assert "doesn't look like it has an OS tree" in run(*words, "/bin/busybox", "true", status=1)


@pytest.mark.vm
@root_only
def test_systemd_finds_the_root_of_the_disk(bundled: Project, tmp_path: Path) -> None:
    disk = bundled.home / "disks/web-nspawn/web.raw"
    table = json.loads(run("/usr/sbin/sfdisk", "--json", disk))["partitiontable"]["partitions"]
    assert table[-1]["type"] == "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
    told = json.loads(run(tool("systemd-dissect"), "--json=short", disk).splitlines()[0])
    assert told["osRelease"] == ["ID=web", "NAME=Web"]
    with disk.open("r+b") as file:
        for place, whence in ((512, os.SEEK_SET), (-512, os.SEEK_END)):
            file.seek(place, whence)
            file.write(bytes(512))  # both headers of the GPT
    run(tool("systemd-dissect"), disk, status=1)
