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
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.errors import ApplianceError
from sfvm.events import Event, Notice
from sfvm.guest import KEPT, PROXY, Command, CommandFailed
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
    """A directory with packages on a server of the test's own, and its URL."""
    directory = tmp_path_factory.mktemp("mirror")
    for version in ("1", "2"):
        make(directory / f"tree-{version}", directory / f"some_{version}_all.deb", version)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Not in the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield directory, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def access(tmp_path: Path, mirror: tuple[Path, str]) -> Iterator[Access]:
    """To the mirror, which the user has named."""
    transfers = Transfers(Store(tmp_path / "downloads"))
    yield Access(transfers, Policy(named=frozenset({mirror[1].removeprefix("http://")})))
    transfers.close()


@pytest.fixture
def appliance(image: Image, tmp_path: Path, told: list[Event], access: Access) -> Iterator[Appliance]:
    with boot(image, disk(tmp_path / "disk.qcow2"), []) as running:
        running.format("ext4")
        running.mount()
        install(running)
        running.supplied(access, tmp_path / "exchange", told.append)
        yield running
    assert not (tmp_path / "exchange").exists()


def capture(appliance: Appliance, script: str, place: str = "guest", network: bool = True) -> str:
    return appliance.guest.capture(Command(script, place=place, network=network, packages=True))


def test_what_is_downloaded_is_kept(appliance: Appliance, mirror: tuple[Path, str], access: Access) -> None:
    directory, url = mirror
    (directory / "file.deb").write_bytes(b"content")
    assert capture(appliance, f"wget -q -O - {url}/file.deb") == "content"
    digest = hashlib.sha256(b"content").hexdigest()
    assert access.store.content(digest).read_bytes() == b"content"
    (fetched,) = access.ledger.take()
    assert (fetched.url, fetched.sha256, fetched.size) == (f"{url}/file.deb", digest, 7)
    assert not appliance.guest.exists("/run/sfvm"), "nothing of it is in the guest"


def test_who_has_network_is_told(appliance: Appliance) -> None:
    ask = "echo ${http_proxy:-none} ${HTTPS_PROXY:-none}"
    assert appliance.guest.capture(Command(ask)) == "none none\n"
    assert capture(appliance, ask, network=False) == "none none\n"
    assert capture(appliance, ask) == f"{PROXY} {PROXY}\n"
    own = Command(ask, env={"http_proxy": "http://mine.invalid"}, packages=True)
    assert appliance.guest.capture(own).startswith("http://mine.invalid ")


REACH = """for place in 127.0.0.1:3128 127.0.0.1:{port} 169.254.2.2:{port} 169.254.2.2:{proxy}; do
    nc -w 5 ${{place%:*}} ${{place#*:}} </dev/null && echo reached || echo none
done
nslookup localhost. 169.254.2.3 >/dev/null 2>&1 && echo looked up || echo none
wget -q -O - {url} 2>&1 || echo refused
"""


def test_what_a_command_reaches(appliance: Appliance, mirror: tuple[Path, str], access: Access) -> None:
    """The host's own ports are there for nobody; servers are, by the proxy, for those who may."""
    directory, url = mirror
    (directory / "page").write_bytes(b"page\n")
    capture(appliance, "true")  # starts the proxy
    assert appliance.supply is not None and appliance.supply._proxy is not None
    port, proxy = url.rpartition(":")[2], appliance.supply._proxy.port
    script = REACH.format(port=port, proxy=proxy, url=f"{url}/page")

    def lines(network: bool | tuple[str, ...]) -> list[str]:
        return appliance.guest.capture(Command(script, network=network)).splitlines()

    *direct, _, asked = lines(False)
    assert (direct, asked) == (["none"] * 5, "refused")
    for network, answer in [(("example.org",), "refused"), ((url.removeprefix("http://"),), "page"), (True, "page")]:
        there, *others, last = lines(network)
        assert there == "reached"
        assert others[:4] == ["none"] * 4
        assert last == answer
    assert [fetched.url for fetched in access.ledger.take()] == [f"{url}/page"]


def test_a_refusal_is_told(appliance: Appliance) -> None:
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command("wget -q http://127.0.0.1:1/", network=True))
    assert "refused: http://127.0.0.1:1/: 127.0.0.1:1 is the host itself" in failed.value.output[-1]


def test_nothing_outside_is_seen(appliance: Appliance) -> None:
    """Nor through the appliance's root: processes there have more network."""
    script = "ls -d /proc/1/root/proc/[0-9]*; ls /proc/1/root/proc | grep -c '^[0-9]'; pidof perl || echo none"
    *own, count, perl = appliance.guest.capture(Command(script, network=True)).split()
    assert int(count) < 8
    assert len(own) < 8
    assert perl == "none"


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


def test_without_the_proxy(appliance: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("sfvm.appliance.supply.Proxy", nothing)
    with pytest.raises(ApplianceError, match="the download proxy cannot be started") as failed:
        capture(appliance, "true")
    assert "Too many open files" in str(failed.value.why)


def test_a_domain_of_another_host(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, appliance: Appliance, access: Access, told: list[Event]
) -> None:
    """Its loopback is not ours."""
    monkeypatch.setattr(machine.Appliance, "connection", "qemu+ssh://elsewhere/system")
    appliance.supply = appliance.guest.runner.supply = None
    appliance.supplied(access, tmp_path / "exchange", told.append)
    assert appliance.supply is None
    assert "no network for steps" in str(told)
    assert capture(appliance, "wget -q http://example.org/ || echo none").strip() == "none"
    monkeypatch.setattr(machine.Appliance, "connection", "qemu:///system")
    appliance.supplied(access, tmp_path / "exchange", told.append)
    assert appliance.supply is not None


def test_another_disk_does_not_disturb_checkpoints(appliance: Appliance, tmp_path: Path) -> None:
    capture(appliance, "true")
    appliance.guest.write("/before", b"1")
    appliance.checkpoint(tmp_path / "over.qcow2")
    appliance.guest.write("/after", b"2")
    assert appliance.guest.read("/before") + appliance.guest.read("/after") == b"12"
    if appliance.profile.emulated and isinstance(appliance.hypervisor, Direct):
        assert (tmp_path / "exchange").stat().st_size == exchange.SIZE
