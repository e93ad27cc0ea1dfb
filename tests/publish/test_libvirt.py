"""Domains, published to a libvirt session that is the test's own, and looked at with virsh."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sfvm.errors import PublishError, SfvmError
from sfvm.publish.bundle import opened
from sfvm.publish.libvirt import publish
from tests.peers.daemons import end_daemons
from tests.peers.tools import tool
from tests.publish.conftest import made

SESSION = "qemu:///session"


@dataclass(frozen=True)
class Host:
    """A user with a libvirt session and an empty storage pool ``images``; its daemon begins with the first command."""

    home: Path

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        environment = {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.home),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "LC_ALL": "C.UTF-8",
        }
        who: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
        return subprocess.run(
            [str(word) for word in words], env=environment, cwd=self.home, capture_output=True, text=True, check=False,
            timeout=120, **who,
        )  # fmt: skip

    def virsh(self, *words: str | Path) -> str:
        done = self.run(tool("virsh"), "-c", SESSION, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def publish(self, bundle: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "sfvm.cli", "publish", "libvirt", bundle)
        return self.run(*command, "--connect", SESSION, "--pool", "images", *words)

    def volumes(self) -> list[str]:
        return sorted(path.name for path in (self.home / "images").iterdir())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    if not shutil.which("libvirtd", path="/usr/sbin:/usr/bin"):
        pytest.skip("libvirtd is not installed")
    with tempfile.TemporaryDirectory(prefix="pool-", dir="/tmp") as directory:
        home = Path(directory)
        (home / "images").mkdir()
        if os.geteuid() == 0:
            shutil.chown(home, "nobody")
            shutil.chown(home / "images", "nobody")
        pool = f'<pool type="dir"><name>images</name><target><path>{home}/images</path></target></pool>'
        (home / "pool.xml").write_text(pool)
        found = Host(home)
        try:
            found.virsh("pool-create", home / "pool.xml")
            yield found
        finally:
            end_daemons(home)


@pytest.fixture
def bundle(host: Host, disk: Path) -> Iterator[Path]:
    """A bundle that the user of the session can read."""
    directory = made("libvirt", host.home / "web-libvirt", disk)
    path = directory / "web.xml"
    text = path.read_text().replace('type="kvm"', 'type="qemu"')  # KVM may not be there
    path.write_text(text.replace('<cpu mode="host-passthrough"/>', ""))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def test_volume_and_domain_are_there(host: Host, bundle: Path, disk: Path) -> None:
    done = host.publish(bundle, "--json")
    assert done.returncode == 0, done.stderr
    expected = {"domain": "web", "volume": "web.qcow2", "pool": "images", "connection": SESSION}
    assert json.loads(done.stdout) == expected
    assert host.volumes() == ["web.qcow2"]
    copy = host.home / "copy.qcow2"
    host.virsh("vol-download", "--pool", "images", "web.qcow2", copy)
    compare = [tool("qemu-img"), "compare", "-f", "qcow2", "-F", "raw", copy, disk]
    assert subprocess.run(compare, capture_output=True).returncode == 0
    copy.unlink()
    described = host.virsh("dumpxml", "web")
    assert "<source pool='images' volume='web.qcow2'/>" in described
    assert "<uuid>" in described

    again = host.publish(bundle)
    assert again.returncode == 1
    assert "there is a domain web and a volume web.qcow2 in the pool images already" in again.stderr
    other = host.publish(bundle, "--name", "other")
    assert (other.returncode, other.stdout) == (0, "other\n")
    assert host.virsh("list", "--all", "--name").split() == ["other", "web"]
    for name in ("web", "other"):
        host.virsh("undefine", name)
        host.virsh("vol-delete", "--pool", "images", f"{name}.qcow2")


def test_what_libvirt_refuses_leaves_nothing(host: Host, bundle: Path) -> None:
    path = bundle / "web.xml"
    path.write_text(path.read_text().replace('machine="q35"', 'machine="toaster"'))
    done = host.publish(bundle)
    assert done.returncode == 1
    assert "the domain web cannot be defined" in done.stderr
    assert "  why: " in done.stderr
    assert host.volumes() == []
    assert host.virsh("list", "--all", "--name").split() == []


def test_a_damaged_image_is_not_published(host: Host, bundle: Path) -> None:
    with (bundle / "web.qcow2").open("ab") as file:
        file.write(b"more")
    done = host.publish(bundle)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    assert host.volumes() == []


def test_a_pool_that_is_not_there_is_said(host: Host, bundle: Path) -> None:
    done = host.publish(bundle, "--pool", "nowhere")
    assert done.returncode == 1
    assert "the storage pool 'nowhere' cannot be used" in done.stderr
    assert "virsh pool-list" in done.stderr


def test_a_connection_that_does_not_answer_is_said(tmp_path: Path, disk: Path) -> None:
    bundle = opened(made("libvirt", tmp_path / "web-libvirt", disk))
    with pytest.raises(PublishError, match="no libvirt daemon answers at qemu"):
        publish(bundle, f"qemu:///session?socket={tmp_path}/none", "default", None, lambda event: None)
    with pytest.raises(PublishError, match="cannot be used"):
        publish(bundle, "test:///default", "nowhere", None, lambda event: None)


@pytest.mark.parametrize("text", ["", "<domain", "<domain/>", "\0"])
def test_a_domain_that_is_none_is_said(tmp_path: Path, disk: Path, text: str) -> None:
    directory = made("libvirt", tmp_path / "web-libvirt", disk)
    (directory / "web.xml").write_text(text)
    with pytest.raises(PublishError, match=r"web\.xml describes no domain"):
        publish(opened(directory), "test:///default", "default-pool", None, lambda event: None)


@pytest.mark.parametrize("name", ["web.xml", "web.qcow2"])
def test_an_artifact_that_is_gone_is_said(tmp_path: Path, disk: Path, name: str) -> None:
    directory = made("libvirt", tmp_path / "web-libvirt", disk)
    (directory / name).unlink()
    with pytest.raises(PublishError, match=f"{name} is missing"):
        publish(opened(directory), "test:///default", "default-pool", None, lambda event: None)


def test_an_image_that_names_another_file_is_refused(tmp_path: Path, disk: Path) -> None:
    """The host that it is uploaded to would read that file of its own."""
    directory = made("libvirt", tmp_path / "web-libvirt", disk)
    image = directory / "web.qcow2"
    image.unlink()
    words = ("create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", image, "64M")
    subprocess.run([tool("qemu-img"), *words], check=True, capture_output=True)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["artifacts"]["web.qcow2"]["sha256"] = hashlib.sha256(image.read_bytes()).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SfvmError, match="names the backing file '/etc/passwd'"):
        publish(opened(directory), "test:///default", "default-pool", None, lambda event: None)
