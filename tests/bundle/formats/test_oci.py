"""OCI images and container disks, judged by skopeo, umoci and oci-image-tool."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.errors import SpecError
from tests.bundle.formats.trees import BIG, stage, tree, verb
from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers.tools import tool


def run(*words: str | Path, status: int = 0) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def unpacked(archive: Path, directory: Path) -> Path:
    """The image's layout as a directory."""
    directory.mkdir()
    run("tar", "-xf", archive, "-C", directory)
    return directory


def layers(layout: Path) -> list[Path]:
    """The blobs of the layers, the lowest first."""

    def read(digest: str) -> dict[str, object]:
        return dict(json.loads((layout / "blobs/sha256" / digest.removeprefix("sha256:")).read_text()))

    manifest = read(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"])
    found = [layer["digest"] for layer in manifest["layers"]]  # type: ignore[index, attr-defined]
    return [layout / "blobs/sha256" / digest.removeprefix("sha256:") for digest in found]


def root_of(layout: Path, bundle: Path) -> Path:
    """The image's root filesystem, as umoci puts the layers together."""
    run(tool("umoci"), "unpack", "--rootless", "--image", f"{layout}:latest", bundle)
    return bundle / "rootfs"


def refused(layout: Path, tmp_path: Path) -> None:
    """Both readers of digests complain."""
    done = run(
        tool("skopeo"), "--insecure-policy", "copy", f"oci:{layout}:latest", f"dir:{tmp_path / 'copy'}", status=1
    )
    assert "igest" in done
    run(tool("umoci"), "unpack", "--rootless", "--image", f"{layout}:latest", tmp_path / "bundle", status=1)


def test_a_command_that_no_shell_reads_is_an_error_of_the_format(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="command cannot be read") as caught:
        verb(tmp_path, '<oci as="a" command="echo it\'s"/>')
    assert caught.value.place
    assert caught.value.place.excerpt()[1].index("^") == caught.value.place.excerpt()[0].index("command")


@pytest.fixture
def layout(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    made = stage(tmp_path, tree(tmp_path / "tree.tar"))
    text = f'<oci as="a.tar" layers="one" compression="{getattr(request, "param", "gzip")}" command="/init \'a b\'"/>'
    verb(tmp_path, text).make(made)
    assert [path.name for path in made.directory.iterdir()] == ["a.tar"]  # nothing of its making is left
    return unpacked(made.directory / "a.tar", tmp_path / "layout")


@pytest.mark.parametrize("layout", ["gzip", "zstd", "none"], indirect=True)
def test_an_image_of_one_layer_is_what_skopeo_copies(layout: Path, tmp_path: Path) -> None:
    told = json.loads(run(tool("skopeo"), "inspect", f"oci:{layout}:latest"))
    assert (told["Architecture"], told["Os"], len(told["Layers"])) == ("amd64", "linux", 1)
    config = json.loads(run(tool("skopeo"), "inspect", "--config", f"oci:{layout}:latest"))
    assert config["config"]["Cmd"] == ["/init", "a b"]
    run(tool("skopeo"), "--insecure-policy", "copy", f"oci:{layout}:latest", f"oci:{tmp_path / 'copy'}")


def test_an_image_is_what_umoci_unpacks(layout: Path, tmp_path: Path) -> None:
    assert "Validation succeeded" in run(
        tool("oci-image-tool"), "validate", "--type", "image", "--ref", "name=latest", layout
    )
    root = root_of(layout, tmp_path / "bundle")
    assert (root / "big").read_bytes() == BIG
    assert (root / "same").samefile(root / "plain")
    assert str((root / "soft").readlink()) == "plain"
    assert (root / "dev").is_dir()
    assert not (root / "dev/null").exists()
    assert os.getxattr(root / "tool", "user.note") == b"kept"


def test_a_layer_that_is_not_what_its_digest_says_is_refused(layout: Path, tmp_path: Path) -> None:
    (blob,) = layers(layout)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    refused(layout, tmp_path)


def test_equal_trees_are_equal_images(tmp_path: Path) -> None:
    archive, found = tree(tmp_path / "tree.tar"), set()
    for name in ("one", "two"):
        made = stage(tmp_path, archive, name)
        verb(tmp_path, '<oci as="a.tar" layers="one"/>').make(made)
        found.add((made.directory / "a.tar").read_bytes())
    assert len(found) == 1


FIRST = """
set -e
mkdir -p /etc/ssh /var/lib/systemd /dir/deep /other /swap /again
for i in $(seq 20); do echo stays >/stays$i; echo gone >/gone$i; done
echo a >/dir/a; echo b >/dir/deep/b; echo o >/other/o; echo s >/swap/s; echo old >/again/old
echo plain >/plain; chown 12:34 /plain; ln /plain /hard; ln -s plain /soft
echo SECRET-KEY >/etc/ssh/ssh_host_rsa_key
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
echo SECRET-SEED >/var/lib/systemd/random-seed
"""
SECOND = """
set -e
rm /gone*; rm -r /dir; echo file >/dir; rm -r /swap; ln -s other /swap; rm -r /again; mkdir /again; echo new >/again/new
echo more >>/plain; rm /soft; mkdir /soft; echo in >/soft/in; chown 3:4 /stays1; ln /stays2 /linked
mv /other/o /other/p;
touch "/a name
with a line"; echo SECRET-KEY >/etc/ssh/ssh_host_ecdsa_key
"""


@pytest.fixture(scope="module")
def bundled(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A chain of three nodes, as images and as a tar."""
    with project_of(tmp_path_factory.mktemp("oci"), seed) as made:
        made.write("first", "busybox", f'<run network="no">{FIRST}</run>')
        made.write("second", "first", f'<run network="no">{SECOND.replace(">>", "&gt;&gt;")}</run>')
        made.sfvm("build", "second")
        made.sfvm("bundle", "second", "oci", "tar", "--set", "compression=gzip", "--output", str(made.home / "out"))
        made.sfvm("bundle", "first", "oci", "--output", str(made.home / "out"))
        yield made


@pytest.mark.vm
def test_layers_put_together_are_the_node(bundled: Project, tmp_path: Path) -> None:
    """Whatever was added, replaced, removed, moved, linked: umoci makes of the layers what the tar has."""
    layout = unpacked(bundled.home / "out/second-oci/second.oci.tar", tmp_path / "layout")
    root = root_of(layout, tmp_path / "bundle")
    plain = tmp_path / "tar"
    plain.mkdir()
    run("tar", "-xf", bundled.home / "out/second-tar/second.tar.gz", "-C", plain)
    run("diff", "-r", "--no-dereference", plain, root)
    assert (root / "hard").samefile(root / "plain")
    assert (root / "linked").samefile(root / "stays2")
    assert os.listdir(root / "again") == ["new"]  # noqa: PTH208  # names alone
    run(tool("skopeo"), "--insecure-policy", "copy", f"oci:{layout}:latest", f"docker-archive:{tmp_path / 'd.tar'}")


@pytest.mark.vm
def test_a_layer_has_what_its_node_changed_and_is_shared(bundled: Project, tmp_path: Path) -> None:
    two = layers(unpacked(bundled.home / "out/second-oci/second.oci.tar", tmp_path / "second"))
    one = layers(unpacked(bundled.home / "out/first-oci/first.oci.tar", tmp_path / "first"))
    assert [len(one), len(two)] == [3, 4]
    assert [path.name for path in one[:2]] == [path.name for path in two[:2]]
    with tarfile.open(two[2]) as layer:
        members = {member.name.removeprefix("./"): member for member in layer}
    assert {"plain", "hard", "stays1", "stays2", "linked", "dir", "swap", "a name\nwith a line", ".wh.gone7"} <= set(
        members
    )
    assert {"other/.wh.o", "again/.wh.old"} <= set(members)
    assert not {"stays3", "bin/busybox", "dir/.wh.a", "swap/.wh.s"} & set(members)
    assert (members["stays1"].uid, members["stays1"].gid) == (3, 4)
    with tarfile.open(two[3]) as last:
        assert (
            {"./etc/machine-id"}
            <= set(last.getnames())
            <= {"./etc", "./etc/machine-id", "./etc/ssh", "./var/lib/systemd"}
        )


@pytest.mark.vm
def test_no_layer_has_a_secret(bundled: Project, tmp_path: Path) -> None:
    for blob in layers(unpacked(bundled.home / "out/second-oci/second.oci.tar", tmp_path / "layout")):
        content = subprocess.run(["gzip", "-dc", blob], capture_output=True, check=True).stdout
        assert b"SECRET" not in content
        assert b"0123456789abcdef0123456789abcdef" not in content
        assert b"ssh_host" not in content


@pytest.mark.vm
def test_a_container_disk_has_one_disk_that_qemu_may_read(bundled: Project, tmp_path: Path) -> None:
    bundled.sfvm("bundle", "first", "containerdisk", "--set", "boot=none", "--output", str(bundled.home / "out"))
    layout = unpacked(bundled.home / "out/first-containerdisk/first.oci.tar", tmp_path / "layout")
    assert "Validation succeeded" in run(
        tool("oci-image-tool"), "validate", "--type", "image", "--ref", "name=latest", layout
    )
    (blob,) = layers(layout)
    listing = run("tar", "--numeric-owner", "-tvf", blob).splitlines()
    assert [line.split()[:2] + line.split()[-1:] for line in listing] == [
        ["dr-xr-xr-x", "107/107", "disk/"],
        ["-r--r--r--", "107/107", "disk/first.qcow2"],
    ]
    root = root_of(layout, tmp_path / "bundle")
    run("qemu-img", "check", root / "disk/first.qcow2")
    told = json.loads(run("qemu-img", "info", "--output=json", root / "disk/first.qcow2"))
    assert told["format"] == "qcow2"
    assert "backing-filename" not in told
    with blob.open("ab") as file:
        file.write(b"more")
    (tmp_path / "again").mkdir()
    refused(layout, tmp_path / "again")
