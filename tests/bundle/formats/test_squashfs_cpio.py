"""squashfs and cpio, read by programs that sfvm did not write."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from sfvm.bundle.outputs.cpio import MOST, Header
from sfvm.errors import BundleError, SpecError
from tests.bundle.formats.trees import ACL, BIG, EPOCH, stage, tree, verb
from tests.peers.tools import tool


def run(*words: str | Path, **more: object) -> str:
    done = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True, **more)  # type: ignore[call-overload]
    return str(done.stdout)


@pytest.mark.parametrize("compression", ["zstd", "xz", "gzip"])
def test_a_squashfs_is_what_unsquashfs_lists(tmp_path: Path, compression: str) -> None:
    made = stage(tmp_path, tree(tmp_path / "tree.tar"))
    verb(tmp_path, f'<squashfs as="a" compression="{compression}"/>').make(made)
    image = made.directory / "a"
    assert f"Compression {compression}" in run(tool("unsquashfs"), "-s", image)
    lines = run(tool("unsquashfs"), "-lln", "-UTC", image).splitlines()
    listing = {line.split("squashfs-root", 1)[1]: line.split("squashfs-root")[0].split() for line in lines if line}
    assert listing[""][:2] == ["drwxr-x---", "3/0"]  # the root's own owner and mode
    assert listing["/plain"][:3] == ["-rw-r--r--", "1234/5678", "6"]
    assert listing["/same"] == listing["/plain"]
    assert listing["/dev/null"][:4] == ["crw-rw-rw-", "0/0", "1,", "3"]
    assert listing["/etc/setuid"][0] == "-rwsr-xr-x"
    assert listing["/etc/pipe"][0][0] == "p"
    assert "/soft -> plain" in listing
    assert subprocess.run([tool("unsquashfs"), "-cat", image, "big"], capture_output=True, check=True).stdout == BIG
    # Another reader: squashfs-tools-ng, which tells of hard links and xattrs, too.
    with tarfile.open(fileobj=io.BytesIO(run_bytes(tool("sqfs2tar"), image))) as tar:
        links = {member.name: member.linkname for member in tar if member.islnk()}
    assert links in ({"same": "plain"}, {"plain": "same"})
    assert b"SCHILY.xattr.user.note=kept" in run_bytes(tool("sqfs2tar"), image)


def run_bytes(*words: str | Path) -> bytes:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True).stdout


def test_equal_trees_are_equal_images_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, found = tree(tmp_path / "tree.tar"), []
    for name in ("one", "two"):
        made = stage(tmp_path, archive, name)
        verb(tmp_path, '<squashfs as="a"/>').make(made)
        verb(tmp_path, '<cpio as="b" compression="gzip" init="/sbin/init"/>').make(made)
        found.append([(made.directory / artifact).read_bytes() for artifact in "ab"])
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1234567890")
    assert found[0] == found[1]


def test_a_level_is_a_choice_between_time_and_size(tmp_path: Path) -> None:
    archive, sizes = tree(tmp_path / "tree.tar"), []
    with tarfile.open(archive, "a") as tar:
        data = "".join(f"{number * 7919 % 10007} " for number in range(200_000)).encode()
        member = tarfile.TarInfo("./numbers")
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    for level in ("1", "19"):
        made = stage(tmp_path, archive, level)
        verb(tmp_path, f'<squashfs as="a" level="{level}"/>').make(made)
        assert f"compression-level {level}" in run(tool("unsquashfs"), "-s", made.directory / "a")
        sizes.append((made.directory / "a").stat().st_size)
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(("compression", "level"), [("zstd", "23"), ("zstd", "0"), ("gzip", "10"), ("xz", "1")])
def test_a_level_that_there_is_not_is_an_error(tmp_path: Path, compression: str, level: str) -> None:
    with pytest.raises(SpecError, match="has no level"):
        verb(tmp_path, f'<squashfs as="a" compression="{compression}" level="{level}"/>')


def test_acls_are_refused_or_left_out(tmp_path: Path) -> None:
    made = stage(tmp_path, tree(tmp_path / "tree.tar", ACL))
    with pytest.raises(BundleError, match="cannot store the ACLs") as error:
        verb(tmp_path, '<squashfs as="a"/>').make(made)
    assert "/plain" in (error.value.why or "")
    verb(tmp_path, '<squashfs as="a" acls="drop"/>').make(made)
    assert "Compression zstd" in run(tool("unsquashfs"), "-s", made.directory / "a")


def test_a_damaged_squashfs_is_refused(tmp_path: Path) -> None:
    made = stage(tmp_path, tree(tmp_path / "tree.tar"))
    verb(tmp_path, '<squashfs as="a"/>').make(made)
    image = made.directory / "a"
    data = bytearray(image.read_bytes())
    data[96:120] = bytes(24)  # the first data block follows the superblock
    image.write_bytes(data)
    out = tmp_path / "unpacked"
    done = subprocess.run([tool("unsquashfs"), "-ex", "-strict", "-d", out, image], capture_output=True)
    assert done.returncode != 0


def test_a_tar_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    archive = tmp_path / "tree.tar"
    tree(archive)
    with archive.open("r+b") as file:
        file.seek(20480)
        file.write(b"\xff" * 512 * 4)
        file.truncate(30000)
    with pytest.raises(BundleError, match="tar2sqfs failed"):
        verb(tmp_path, '<squashfs as="a" acls="drop"/>').make(stage(tmp_path, archive))


@pytest.fixture
def cpio(tmp_path: Path) -> Path:
    made = stage(tmp_path, tree(tmp_path / "tree.tar"))
    verb(tmp_path, '<cpio as="a.cpio" init="/sbin/init"/>').make(made)
    return made.directory / "a.cpio"


@pytest.mark.parametrize("program", ["cpio", "bsdtar"])
def test_a_cpio_is_what_others_unpack(tmp_path: Path, cpio: Path, program: str) -> None:
    out = tmp_path / program
    out.mkdir()
    words = {
        "cpio": [tool("cpio"), "-idm", "--quiet", "-f", "dev/null"],
        "bsdtar": [tool("bsdtar"), "-xp", "-f", str(cpio), "--exclude", "dev/null"],
    }[program]
    with cpio.open() as file:
        run(*words, cwd=out, stdin=file)
    assert (out / "big").read_bytes() == BIG
    assert (out / "same").samefile(out / "plain")
    assert (out / "same").read_text() == "plain\n"
    assert str((out / "init").readlink()) == "/sbin/init"
    assert str((out / "soft").readlink()) == "plain"
    assert (out / "etc/pipe").is_fifo()
    assert (out / "etc/setuid").stat().st_mode & 0o777 == 0o755
    assert (out / "etc/os-release").stat().st_mtime == EPOCH + 5


def test_a_cpio_keeps_owners_and_devices(cpio: Path) -> None:
    lines = run(tool("cpio"), "-itnv", "--quiet", stdin=cpio.open()).splitlines()
    listing = {line.split()[-1]: line.split() for line in lines if "->" not in line}
    assert listing["plain"][1:4] == ["2", "1234", "5678"]
    assert listing["dev/null"][0] == "crw-rw-rw-"
    assert listing["dev/null"][4:6] == ["1,", "3"]
    assert listing["."][0] == "drwxr-x---"


def test_a_damaged_cpio_is_refused(cpio: Path) -> None:
    data = cpio.read_bytes()
    cpio.write_bytes(data[: len(data) // 2])
    done = subprocess.run([tool("cpio"), "-it", "--quiet", "-F", cpio], capture_output=True, text=True)
    assert done.returncode != 0
    assert "premature end" in done.stderr


def test_what_a_header_cannot_hold_is_refused() -> None:
    assert len(Header("a", size=MOST).encode()) == 112
    with pytest.raises(ValueError, match="more than 32 bits"):
        Header("a", size=MOST + 1).encode()


@pytest.mark.vm
def test_a_machine_boots_from_the_network_into_the_node(project, image, tmp_path):  # type: ignore[no-untyped-def]
    """QEMU's network card has iPXE, which reads the script by TFTP; the kernel is the appliance's own."""
    shutil.copy(image.directory / "kernel", project.specs / "kernel")
    project.write(
        "net",
        "busybox",
        '<copy from="kernel" to="/boot/vmlinuz-1"/>',
        '<file path="/init" mode="0755">#!/bin/sh\ndmesg -n 1; echo I-AM-THE-NODE; cat /plain; poweroff -f\n</file>',
        '<file path="/plain">and-this-is-a-file\n</file>',
    )
    project.sfvm("build", "net", "--bundle", "netboot", "--set", "console=ttyS0", "--output", "out")
    made = project.home / "out" / "net-netboot"
    script = (made / "boot.ipxe").read_text().splitlines()
    assert script == [
        "#!ipxe",
        "kernel net.vmlinuz initrd=net.cpio.gz console=ttyS0,115200n8",
        "initrd net.cpio.gz",
        "boot",
    ]
    console = subprocess.run(
        [tool("qemu-system-x86_64"), "-accel", "tcg", "-cpu", "max", "-m", "1024", "-display", "none",
         "-no-reboot", "-serial", "stdio",
         "-netdev", f"user,id=n,restrict=on,tftp={made},bootfile=/boot.ipxe", "-device", "virtio-net-pci,netdev=n",
         "-boot", "n"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=180,
    ).stdout  # fmt: skip
    assert "I-AM-THE-NODE" in console
    assert "and-this-is-a-file" in console
    refused = project.sfvm("bundle", "net", "netboot", "--set", "root=squashfs", "--output", "other", status=1)
    assert "live-boot or dracut-live" in refused.stderr
    refused = project.sfvm("bundle", "busybox", "netboot", "--output", "other", status=1)
    assert "has no kernel" in refused.stderr
