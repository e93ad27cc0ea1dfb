"""Bundles of a real node, made by the command line and judged by tools that sfvm did not write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Drive, Shape
from sfvm.bundle.finish import _rename
from sfvm.config import Settings
from sfvm.events import ignore
from tests.guests.project import Project
from tests.guests.project import project as project_of

pytestmark = pytest.mark.vm

STEPS = """
set -e
echo plain >/plain; chown 1234:5678 /plain
ln /plain /hard
ln -s plain /soft
echo setuid >/setuid; chmod 4755 /setuid
mknod /etc/device c 1 3
mkdir -p /etc/ssh /var/lib/systemd
echo SECRET-KEY >/etc/ssh/ssh_host_rsa_key; echo public >/etc/ssh/ssh_host_rsa_key.pub
echo 0123456789abcdef0123456789abcdef >/etc/machine-id
echo seed >/var/lib/systemd/random-seed
for i in $(seq 40); do echo stays >/stays$i; echo REMOVED-SECRET-$i >/gone$i; done
"""


@pytest.fixture(scope="module")
def bundled(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A node with something of everything, as qcow2, raw and tar."""
    with project_of(tmp_path_factory.mktemp("bundles"), seed) as made:
        made.write("everything", "busybox", f'<run network="no">{STEPS}</run><run network="no">rm /gone*</run>')
        made.sfvm("build", "everything")
        for formats, more in ((("qcow2", "raw"), ("--set", "boot=none")), (("tar",), ())):
            made.sfvm("bundle", "everything", *formats, *more, "--output", str(made.home / "out"))
        yield made


@pytest.fixture(scope="module")
def root(bundled: Project) -> Path:
    """The root partition of the raw disk, cut out where sfdisk says it is."""
    disk = bundled.home / "out" / "everything-raw" / "everything.img"
    table = json.loads(run("sfdisk", "--json", disk))["partitiontable"]
    partition = table["partitions"][-1]
    target = bundled.home / "root.img"
    run("dd", f"if={disk}", f"of={target}", "bs=512", f"skip={partition['start']}", f"count={partition['size']}",
        "conv=sparse", "status=none")  # fmt: skip
    return target


def run(*words: str | Path) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def cat(image: Path, path: str) -> str:
    return run("/usr/sbin/debugfs", "-R", f"cat {path}", image)


def test_the_qcow2_is_sound_and_stands_alone(bundled: Project) -> None:
    disk = bundled.home / "out" / "everything-qcow2" / "everything.qcow2"
    run("qemu-img", "check", disk)
    assert "backing-filename" not in json.loads(run("qemu-img", "info", "--output=json", disk))
    raw = bundled.home / "out" / "everything-raw" / "everything.img"
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", disk, raw)
    assert "No errors" in run("/usr/sbin/sfdisk", "--verify", raw)


def test_the_filesystem_is_clean_and_fstab_names_it(root: Path) -> None:
    run("/usr/sbin/e2fsck", "-fn", root)
    uuid = run("/usr/sbin/blkid", "-p", "-s", "UUID", "-o", "value", root).strip()
    assert f"UUID={uuid} / ext4" in cat(root, "/etc/fstab")


def identifiers(directory: Path) -> set[str]:
    table = json.loads(run("/usr/sbin/sfdisk", "--json", next(directory.glob("*.img"))))["partitiontable"]
    return {table["id"], *(part["uuid"] for part in table["partitions"])}


def test_identifiers_are_those_of_the_node_and_nobody_elses(bundled: Project) -> None:
    for node in ("everything", "busybox"):
        again = ("raw", "--set", "boot=none", "--output", str(bundled.home / "again"))
        done = bundled.sfvm("bundle", node, *again)
        booted = "appliance" in [event["name"] for event in done.all("PhaseStarted")]
        assert booted == (node == "busybox")  # everything was made ready before
    first = identifiers(bundled.home / "out" / "everything-raw")
    assert identifiers(bundled.home / "again" / "everything-raw") == first
    assert not identifiers(bundled.home / "again" / "busybox-raw") & first


def test_a_format_that_asks_for_the_kernel_serves_those_that_do_not(bundled: Project) -> None:
    """And has the same identifiers: they follow from the node and the layout alone."""
    formats = bundled.home / "formats"
    formats.mkdir()
    disk = '<layout table="gpt"><swap size="1M"/><root/></layout><convert to="raw" as="${name}.img"/></format>'
    for name, requires in (("asking", '<requires option="XEN"/>'), ("plain", "")):
        text = f'<format xmlns="urn:sfvm:1" name="{name}"><summary>{name}</summary>{requires}{disk}'
        (formats / f"{name}.xml").write_text(text)
    bundled.sfvm("bundle", "everything", "asking", "--output", "kernel")
    done = bundled.sfvm("bundle", "everything", "plain", "--output", "kernel")
    assert "appliance" not in [event["name"] for event in done.all("PhaseStarted")]
    shutil.rmtree(bundled.repository.root / "finished")
    bundled.sfvm("bundle", "everything", "plain", "--output", "again-kernel")
    one, two = (bundled.home / where / "everything-plain" for where in ("kernel", "again-kernel"))
    assert identifiers(one) == identifiers(two)
    fstabs = [run("grep", "-ao", "UUID=[-0-9a-f]* / ext4", directory / "everything.img") for directory in (one, two)]
    assert fstabs[0]
    assert fstabs[0] == fstabs[1]


def test_a_bundle_is_replaced_when_the_user_says_so(bundled: Project) -> None:
    output = bundled.home / "replaced"
    words = ("bundle", "everything", "raw", "--set", "boot=none", "--output", str(output))
    bundled.sfvm(*words)
    (output / "everything-raw" / "mine").touch()
    assert "--force" in bundled.sfvm(*words, status=1).stderr
    assert (output / "everything-raw" / "mine").exists()
    bundled.sfvm(*words, "--force")
    assert not (output / "everything-raw" / "mine").exists()
    (output / "everything-raw" / "SHA256SUMS").unlink()
    assert "is no bundle" in bundled.sfvm(*words, "--force", status=1).stderr


def test_nothing_that_must_not_be_cloned_is_left(root: Path) -> None:
    assert cat(root, "/etc/machine-id") == ""
    listing = run("/usr/sbin/debugfs", "-R", "ls -p /etc/ssh", root) + run(
        "/usr/sbin/debugfs", "-R", "ls -p /var/lib/systemd", root
    )
    assert "ssh_host" not in listing
    assert "random-seed" not in listing
    assert subprocess.run(["grep", "-qa", "SECRET-KEY", root], check=False).returncode == 1
    # Of a step's, in clusters of the node that have files which stay, too.
    assert subprocess.run(["grep", "-qa", "REMOVED-SECRET", root], check=False).returncode == 1


def test_the_sums_and_the_manifest_are_right(bundled: Project) -> None:
    for directory in (bundled.home / "out").iterdir():
        subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=directory, check=True)
        content = json.loads((directory / "manifest.json").read_text())
        assert content["node"] == "everything"
        assert {directory / name for name in content["artifacts"]} | {
            directory / "manifest.json",
            directory / "SHA256SUMS",
        } == set(directory.iterdir())


def test_the_tar_keeps_what_the_guest_has(bundled: Project) -> None:
    with tarfile.open(bundled.home / "out" / "everything-tar" / "everything.tar.gz") as archive:
        members = {member.name.removeprefix("./"): member for member in archive}
    assert (members["plain"].uid, members["plain"].gid) == (1234, 5678)
    names = {"plain", "hard"}
    links = [name for name in names if members[name].islnk()]
    assert len(links) == 1
    assert members[links[0]].linkname.removeprefix("./") in names
    assert members["soft"].linkname == "plain"
    assert members["setuid"].mode == 0o4755
    assert members["etc/device"].ischr()
    assert (members["etc/device"].devmajor, members["etc/device"].devminor) == (1, 3)
    assert "lost+found" not in members
    assert "etc/ssh/ssh_host_rsa_key" not in members


CAPABILITY = "0x0100000200200000000000000000000000000000"
"""cap_net_raw+ep, as the kernel stores it (capabilities(7))."""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file capabilities to begin with")
def test_xattrs_acls_and_capabilities_go_in_and_come_out(bundled: Project) -> None:
    files = bundled.home / "files"
    files.mkdir()
    (files / "tool").write_text("x")
    run("setfattr", "-n", "user.note", "-v", "kept", files / "tool")
    run("setfattr", "-n", "security.capability", "-v", CAPABILITY, files / "tool")
    run("setfacl", "-m", "u:4321:r", files / "tool")
    archive = bundled.specs / "files.tar"
    run("tar", "-C", files, "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-cf", archive, ".")
    sha256 = run("sha256sum", archive).split()[0]
    (bundled.specs / "kept.xml").write_text(
        '<filesystem xmlns="urn:sfvm:1" name="kept"><disk size="64M" format="ext4"/>'
        f'<base><archive from="files.tar" sha256="{sha256}"/></base></filesystem>'
    )
    bundled.sfvm("build", "kept", "--bundle", "tar", "--output", str(bundled.home / "out"))
    with tarfile.open(bundled.home / "out" / "kept-tar" / "kept.tar.gz") as made:
        headers = made.getmember("./tool").pax_headers
    assert headers["SCHILY.xattr.user.note"] == "kept"
    capability = headers["SCHILY.xattr.security.capability"].encode("utf-8", errors="surrogateescape")
    assert capability == bytes.fromhex(CAPABILITY.removeprefix("0x"))
    assert "user:4321:r--" in headers["SCHILY.acl.access"]


def test_a_disk_without_a_kernel_is_refused_and_nothing_is_left(bundled: Project) -> None:
    output = bundled.home / "refused"
    done = bundled.sfvm("bundle", "everything", "qcow2", "--output", str(output), status=1)
    assert "has no kernel" in done.stderr
    assert "boot=none" in done.stderr
    assert list(output.iterdir()) == []


def test_a_filesystem_with_errors_is_checked_before_it_is_renamed(image: Image, tmp_path: Path) -> None:
    """Its UUID goes into checksums, which must not make what is damaged look sound."""
    disk, log = tmp_path / "disk.qcow2", []
    run("qemu-img", "create", "-q", "-f", "qcow2", disk, "64M")
    fresh = "11111111-2222-3333-4444-555555555555"
    settings = Settings(repository=tmp_path / "repository", cache=platformdirs.user_cache_path("sfvm"))
    with launch(image, [Drive(disk)], Shape(), settings, log=log.append, listener=ignore) as appliance:
        appliance.format("ext4")
        device = appliance.device(0)
        wrong = ("set_super_value state 2", "set_super_value free_blocks_count 7", "set_super_value mtime now")
        for command in wrong:
            appliance.tool(f"debugfs -w -R '{command}' {device} 2>/dev/null")
        _rename(appliance, "ext4", fresh)
        assert appliance.tool(f"blkid -p -s UUID -o value {device}").strip() == fresh
        appliance.tool(f"e2fsck -fn {device} 2>&1")
