"""Package managers in the real appliance: through the host's download cache, and with packages that it unpacks."""

from __future__ import annotations

import hashlib
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sfvm import apt
from sfvm.appliance import machine
from sfvm.appliance.hypervisor import Direct
from sfvm.appliance.image import Image
from sfvm.appliance.machine import Appliance
from sfvm.downloads import exchange
from sfvm.downloads.upstream import HOST
from sfvm.errors import ApplianceError
from sfvm.events import Event, Notice
from sfvm.guest import KEPT, Command
from tests.appliance.conftest import boot, disk, install

pytestmark = pytest.mark.vm


def make(tree: Path, package: Path, version: str) -> None:
    """A package with some thousand lines in a file."""
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: some\nVersion: {version}\nArchitecture: all\nMaintainer: me <me@invalid>\nDescription: some\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr" / "text").write_text(f"{version}\n" * 500_000)
    subprocess.run(["dpkg-deb", "-Zxz", "--root-owner-group", "-b", tree, package], check=True, capture_output=True)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A directory with packages on a server of the test's own, and its URL as a guest reaches it."""
    directory = tmp_path_factory.mktemp("mirror")
    for version in ("1", "2"):
        make(directory / f"tree-{version}", directory / f"some_{version}_all.deb", version)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Not in the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory, f"http://{HOST}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def appliance(image: Image, tmp_path: Path, told: list[Event]) -> Iterator[Appliance]:
    with boot(image, disk(tmp_path / "disk.qcow2"), []) as running:
        running.format("ext4")
        running.mount()
        install(running)
        running.supplied(tmp_path / "cache", tmp_path / "exchange", told.append)
        yield running
    assert not (tmp_path / "exchange").exists()


def capture(appliance: Appliance, script: str, place: str = "guest", network: bool = True) -> str:
    return appliance.guest.capture(Command(script, place=place, network=network, packages=True))


def test_what_is_downloaded_is_kept(appliance: Appliance, mirror: tuple[Path, str], tmp_path: Path) -> None:
    directory, url = mirror
    (directory / "file.deb").write_bytes(b"content")
    assert capture(appliance, f"wget -q -O - {url}/file.deb") == "content"
    kept = tmp_path / "cache" / "content" / hashlib.sha256(b"content").hexdigest()
    assert kept.read_bytes() == b"content"
    assert not appliance.guest.exists("/run/sfvm"), "nothing of it is in the guest"


def test_only_package_managers_are_told(appliance: Appliance) -> None:
    ask = "echo ${http_proxy:-none}"
    assert appliance.guest.capture(Command(ask)) == "none\n"
    assert capture(appliance, ask, network=False) == "none\n"
    assert capture(appliance, ask).startswith("http://sfvm:")
    own = Command(ask, env={"http_proxy": "http://mine.invalid"}, packages=True)
    assert appliance.guest.capture(own) == "http://mine.invalid\n"


def test_what_is_kept_for_each_other(appliance: Appliance) -> None:
    capture(appliance, f"echo index >{KEPT}/index", "appliance")
    assert capture(appliance, f"cat {KEPT}/index; echo more >>{KEPT}/index") == "index\n"
    assert capture(appliance, f"cat {KEPT}/index", "appliance") == "index\nmore\n"
    assert appliance.guest.capture(Command(f"ls {KEPT} 2>&1 || true")) != "index\n"


FETCH = "for v in 1 2; do wget -q -O /some_${{v}}_all.deb {url}/some_${{v}}_all.deb; done; "
HOOK = f"printf '%s\\n' /some_1_all.deb /missing.deb /other.deb /some_2_all.deb | sh -c '{apt.UNPACKED}'"


def test_packages_are_unpacked(
    appliance: Appliance, mirror: tuple[Path, str], told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a chroot of the guest, as apt runs its hooks; what did not come through the proxy stays as it is."""
    directory, url = mirror
    appliance.guest.write("/other.deb", b"not a package")
    script = FETCH.format(url=url) + f"cp /some_2_all.deb /kept; echo changed >>/some_2_all.deb; {HOOK}; ls /*.deb*"
    names = capture(appliance, script).split()
    assert names == ["/other.deb", "/some_1_all.deb", "/some_2_all.deb"]
    if not appliance.profile.emulated:
        pytest.skip("packages are unpacked for emulated CPUs only")
    found = appliance.run("cd /sysroot; stat -c %s some_1_all.deb; dpkg-deb --fsys-tarfile some_1_all.deb | sha256sum")
    size, digest, _ = found.split()
    packed = directory / "some_1_all.deb"
    assert int(size) > 1_000_000 > packed.stat().st_size
    content = subprocess.run(["dpkg-deb", "--fsys-tarfile", packed], capture_output=True, check=True).stdout
    assert digest == hashlib.sha256(content).hexdigest()
    assert appliance.guest.read("/some_2_all.deb") == (directory / "some_2_all.deb").read_bytes() + b"changed\n"
    assert appliance.guest.read("/other.deb") == b"not a package"
    assert told == []


def test_a_full_guest_keeps_its_packages(
    appliance: Appliance, mirror: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, url = mirror
    fill = "dd if=/dev/zero of=/filler bs=64k 2>/dev/null || true; "
    names = capture(appliance, f"{FETCH.format(url=url)}{fill}{HOOK}; ls /*.deb*").split()
    assert names == ["/some_1_all.deb", "/some_2_all.deb"]
    appliance.guest.remove("/filler")
    for name in names:
        assert appliance.guest.read(name) == (directory / name[1:]).read_bytes()


def test_without_the_exchange(
    appliance: Appliance, mirror: tuple[Path, str], told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not appliance.profile.emulated:
        pytest.skip("packages are unpacked for emulated CPUs only")

    def refuse(*_: object) -> None:
        raise ApplianceError("QEMU refused device_add", why="no such bus")

    monkeypatch.setattr(appliance.hypervisor, "attach", refuse)
    directory, url = mirror
    capture(appliance, FETCH.format(url=url) + HOOK)
    assert appliance.guest.read("/some_1_all.deb") == (directory / "some_1_all.deb").read_bytes()
    (notice,) = told
    assert isinstance(notice, Notice) and "no such bus" in notice.message


def test_without_the_proxy(
    appliance: Appliance, mirror: tuple[Path, str], told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("sfvm.appliance.supply.Proxy", nothing)
    directory, url = mirror
    for _ in range(2):
        capture(appliance, FETCH.format(url=url) + HOOK)
    assert appliance.guest.read("/some_1_all.deb") == (directory / "some_1_all.deb").read_bytes()
    (notice,) = told
    assert isinstance(notice, Notice) and "Too many open files" in notice.message


def test_a_proxy_that_the_vm_does_not_reach(
    appliance: Appliance, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfvm.downloads.proxy.Proxy.port", 1)
    assert capture(appliance, "echo ${http_proxy:-none}") == "none\n"
    (notice,) = told
    assert isinstance(notice, Notice) and "does not reach it" in notice.message


def test_a_domain_of_another_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, appliance: Appliance) -> None:
    """Its loopback is not ours."""
    monkeypatch.setattr(machine.Appliance, "connection", "qemu+ssh://elsewhere/system")
    appliance.supply = None
    appliance.guest.runner.supply = dict
    appliance.supplied(tmp_path / "cache", tmp_path / "exchange", lambda event: None)
    assert appliance.supply is None
    monkeypatch.setattr(machine.Appliance, "connection", "qemu:///system")
    appliance.supplied(tmp_path / "cache", tmp_path / "exchange", lambda event: None)
    assert appliance.supply is not None


def test_another_disk_does_not_disturb_checkpoints(appliance: Appliance, tmp_path: Path) -> None:
    capture(appliance, "true")
    appliance.guest.write("/before", b"1")
    appliance.checkpoint(tmp_path / "over.qcow2")
    appliance.guest.write("/after", b"2")
    assert appliance.guest.read("/before") + appliance.guest.read("/after") == b"12"
    if appliance.profile.emulated and isinstance(appliance.hypervisor, Direct):
        assert (tmp_path / "exchange").stat().st_size == exchange.SIZE
