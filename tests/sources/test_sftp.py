"""sftp://: who is believed, and who gets in."""

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from sfvm.cancellation import Cancellation, Cancelled
from sfvm.errors import Place, SpecError
from sfvm.sources.fetch import fetch
from sfvm.verbs import Host
from tests.guests.project import eventually
from tests.sources.servers import Sftp, sftp
from tests.verbs import host as host_of

PLACE = Place(Path("spec.xml"), 3)
CONTENT = os.urandom(4 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def keys() -> list[paramiko.PKey]:
    return [paramiko.ECDSAKey.generate() for _ in range(3)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without an agent."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setattr("sfvm.sources.sftp.SYSTEM_HOSTS", tmp_path / "none")
    ssh = tmp_path / "home" / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    return ssh


@pytest.fixture
def server(tmp_path: Path, home: Path, keys: list[paramiko.PKey]) -> Iterator[Sftp]:
    """Known, and alice's key is in the home."""
    files = tmp_path / "files"
    (files / "images").mkdir(parents=True)
    (files / "images" / "d.bin").write_bytes(CONTENT)
    keys[1].write_private_key_file(str(home / "id_ecdsa"))
    with sftp(files, keys[0], keys[1]) as made:
        (home / "known_hosts").write_text(made.known)
        yield made


@pytest.fixture
def host(tmp_path: Path, server: Sftp) -> Host:
    return host_of(tmp_path, named=frozenset({f"127.0.0.1:{server.port}"}))


def partial(host: Host) -> Path:
    return host.access.store.contents.parent / "partial"


def size(path: Path) -> int:
    """0 as well when it has just gone."""
    return path.stat().st_size if path.exists() else 0


def url(server: Sftp, path: str = "/images/d.bin") -> str:
    return f"sftp://alice@127.0.0.1:{server.port}{path}"


def refused(address: str, host: Host) -> SpecError:
    with pytest.raises(SpecError) as caught:
        fetch(address, SHA256, host.access, PLACE)
    assert caught.value.place == PLACE
    assert list((partial(host)).iterdir()) == []
    return caught.value


def test_once(server: Sftp, host: Host) -> None:
    path = fetch(url(server), SHA256, host.access, PLACE)
    assert path.read_bytes() == CONTENT
    assert fetch(url(server), SHA256, host.access, PLACE) == path
    assert server.sessions == 1


def test_it_goes_on_where_it_broke(server: Sftp, host: Host) -> None:
    (partial(host)).mkdir(parents=True)
    (partial(host) / SHA256).write_bytes(CONTENT[:1234567])
    assert fetch(url(server), SHA256, host.access, PLACE).read_bytes() == CONTENT


def test_a_part_that_is_longer_than_the_file_is_another_files(server: Sftp, host: Host) -> None:
    (partial(host)).mkdir(parents=True)
    (partial(host) / SHA256).write_bytes(CONTENT + b"more")
    assert fetch(url(server), SHA256, host.access, PLACE).read_bytes() == CONTENT


def test_a_transfer_that_is_stopped_leaves_nothing_running(
    server: Sftp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    server.wait, stop = threading.Event(), Cancellation()
    own = host_of(tmp_path, stop=stop, named=frozenset({f"127.0.0.1:{server.port}"}))
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch, url(server), SHA256, own.access, PLACE)
        assert eventually(lambda: fetching.done() or any(map(size, partial(own).glob("*"))))
        stop.cancel()
        with pytest.raises(Cancelled):
            fetching.result(20)
    server.wait.set()
    for thread in threading.enumerate():
        if "prefetch" in thread.name:
            thread.join(5)
            assert not thread.is_alive()
    assert told == []


def test_relative_to_the_users_home(server: Sftp, host: Host) -> None:
    assert fetch(url(server, "/~/images/d.bin"), SHA256, host.access, PLACE).read_bytes() == CONTENT


def test_the_configuration_of_ssh_holds(server: Sftp, host: Host, home: Path) -> None:
    (home / "id_ecdsa").rename(home / "other")
    (home / "config").write_text(
        f"Host images\n  HostName 127.0.0.1\n  Port {server.port}\n  User alice\n  IdentityFile {home}/other\n"
    )
    assert fetch("sftp://images/images/d.bin", SHA256, host.access, PLACE).read_bytes() == CONTENT


def test_an_unknown_host(server: Sftp, host: Host, home: Path) -> None:
    (home / "known_hosts").write_text("")
    error = refused(url(server), host)
    assert "known_hosts does not have the host 127.0.0.1, whose key is ecdsa-sha2-nistp256 SHA256:" in str(error.why)
    assert f"connect once with `ssh -p {server.port} 127.0.0.1`" in str(error.hint)
    assert (home / "known_hosts").read_text() == "", "nothing is added"


def test_a_host_with_another_key(server: Sftp, host: Host, home: Path, keys: list[paramiko.PKey]) -> None:
    (home / "known_hosts").write_text(server.known.replace(keys[0].get_base64(), keys[2].get_base64()))
    before = (home / "known_hosts").read_text()
    error = refused(url(server), host)
    assert "is not the one in known_hosts" in str(error.why)
    assert "somebody may stand in between" in str(error.hint)
    assert (home / "known_hosts").read_text() == before


def test_a_key_that_is_not_let_in(server: Sftp, host: Host, home: Path, keys: list[paramiko.PKey]) -> None:
    keys[2].write_private_key_file(str(home / "id_ecdsa"))
    error = refused(url(server), host)
    assert "alice@127.0.0.1 is not let in" in str(error.why)
    assert "ssh-add" in str(error.hint)


def test_a_key_with_a_passphrase_is_not_asked_for(
    server: Sftp, host: Host, home: Path, keys: list[paramiko.PKey]
) -> None:
    keys[1].write_private_key_file(str(home / "id_ecdsa"), password="secret")
    assert "ssh-add" in str(refused(url(server), host).hint)


def test_a_name_that_stands_for_the_host_itself(server: Sftp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: loopback)
    error = refused(f"sftp://alice@images.example:{server.port}/images/d.bin", host_of(tmp_path))
    assert "images.example is a name of the host itself" in str(error.why)
    assert server.sessions == 0


def test_no_such_file(server: Sftp, host: Host) -> None:
    assert "/images/other: No such file" in str(refused(url(server, "/images/other"), host).why)


def test_nobody_listens(home: Path, tmp_path: Path, keys: list[paramiko.PKey]) -> None:
    with sftp(tmp_path, keys[0], keys[1]) as gone:
        address = url(gone)
    host = host_of(tmp_path, named=frozenset({f"127.0.0.1:{gone.port}"}))
    assert f"port {gone.port}" in str(refused(address, host).why)
