"""EROFS, checked and unpacked by erofs-utils on the host (it is made in the helper VM)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.guests.project import Project
from tests.peers.tools import tool

pytestmark = pytest.mark.vm

STEPS = """
set -e
echo plain >/plain; chown 1234:5678 /plain; ln /plain /same; ln -s plain /soft; touch -d @1500000000 /plain
echo setuid >/setuid; chmod 4755 /setuid
mknod /etc/device c 1 3
head -c 1000000 /dev/urandom >/big; cat /big /big >/twice
"""


def run(*words: str | Path, status: int = 0) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_an_erofs_is_sound_and_has_the_files(project: Project, tmp_path: Path) -> None:
    project.write("files", "busybox", f'<run network="no">{STEPS.replace("&", "&amp;")}</run>')
    project.sfvm("build", "files")
    for where in ("one", "two"):
        project.sfvm("bundle", "files", "erofs", "--output", where)
    image = project.home / "one/files-erofs/files.erofs"
    assert image.read_bytes() == (project.home / "two/files-erofs/files.erofs").read_bytes()
    out = tmp_path / "out"
    run(tool("fsck.erofs"), f"--extract={out}", "--preserve-perms", "--no-preserve-owner", image)
    assert (out / "twice").read_bytes() == 2 * (out / "big").read_bytes()
    assert (out / "same").read_text() == "plain\n"
    assert str((out / "soft").readlink()) == "plain"
    assert not (out / "lost+found").exists()
    told = run(tool("dump.erofs"), "--path=/plain", image)
    for words in ("Uid: 1234   Gid: 5678  Access: 0644", "Links: 2", "Timestamp: 2017-07-14 02:40:00"):
        assert words in told
    assert (out / "setuid").stat().st_mode & 0o7777 == 0o4755
    data = bytearray(image.read_bytes())
    broken = tmp_path / "broken"
    broken.write_bytes(data[: len(data) // 2])
    assert subprocess.run([tool("fsck.erofs"), f"--extract={tmp_path / 'x'}", broken], capture_output=True).returncode
    data[1024 + 16] ^= 1
    broken.write_bytes(data)
    told = subprocess.run([tool("fsck.erofs"), broken], capture_output=True, text=True)  # 1.5 ends with 0 all the same
    assert "failed to verify superblock checksum" in told.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file capabilities to begin with")
def test_acls_and_capabilities_are_kept(project: Project, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    (files / "tool").write_text("x")
    run("setfattr", "-n", "security.capability", "-v", "0x0100000200200000000000000000000000000000", files / "tool")
    run("setfacl", "-m", "u:4321:r", files / "tool")
    archive = project.specs / "files.tar"
    run("tar", "-C", files, "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-cf", archive, ".")
    sha256 = run("sha256sum", archive).split()[0]
    (project.specs / "kept.xml").write_text(
        '<filesystem xmlns="urn:sfvm:1" name="kept"><disk size="64M" format="ext4"/>'
        f'<base><archive from="files.tar" sha256="{sha256}"/></base></filesystem>'
    )
    project.sfvm("build", "kept", "--bundle", "erofs", "--bundle", "squashfs", "--set", "acls=drop", "--output", "out")
    data = (project.home / "out/kept-erofs/kept.erofs").read_bytes()
    assert bytes.fromhex("0100000200200000000000000000000000000000") in data
    assert (4321).to_bytes(4, "little") in data  # the user of the ACL, as the kernel stores it
    refused = project.sfvm("bundle", "kept", "squashfs", "--output", "other", status=1)
    assert "cannot store the ACLs" in refused.stderr
