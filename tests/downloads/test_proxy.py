"""The download proxy: what is fetched again, what never is, and what nobody sees."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import lzma
import os
import socket
import threading
from pathlib import Path

import pytest

from sfvm.downloads import handler as module
from sfvm.downloads import transfer
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Draft, Store
from tests.downloads.servers import Client, Mirror, Network
from tests.downloads.test_unpack import package, unpacked

SECRET = "very-secret"
PACKAGE, INDEX = "/pool/a_1_all.deb", "/dists/InRelease"


def test_a_package_is_fetched_once(mirror: Mirror, client: Client, another: Client) -> None:
    url = mirror.serve(PACKAGE, b"package" * 1000, Content_Type="application/deb", Last_Modified="yesterday")
    assert client.get(url) == b"package" * 1000
    response, content = another.request("GET", url)
    assert content == b"package" * 1000
    assert response.getheader("Content-Type") == "application/deb"
    assert response.getheader("Last-Modified") == "yesterday"
    assert mirror.paths() == [PACKAGE]


@pytest.mark.parametrize("path", ["/dists/by-hash/SHA256/00", "/x/a.udeb", "/x/a.rpm", "/x/a.apk", "/x/a.pkg.tar.zst"])
def test_what_never_changes(mirror: Mirror, client: Client, another: Client, path: str) -> None:
    url = mirror.serve(path, b"content")
    assert client.get(url) == another.get(url) == b"content"
    assert mirror.paths() == [path]


def test_a_package_that_was_of_no_use_is_fetched_anew(mirror: Mirror, client: Client, another: Client) -> None:
    url = mirror.serve(PACKAGE, b"wrong", ETag="same")
    assert client.get(url) == b"wrong"
    mirror.serve(PACKAGE, b"right", ETag="same")
    assert another.get(url) == b"wrong"
    assert another.get(url) == b"right"
    assert client.get(url) == b"right"


@pytest.mark.parametrize(
    "line",
    [
        "E: Failed to fetch http://mirror/pool/a+b_1_all.deb  Hash Sum mismatch",
        "E: Failed to fetch http://mirror/pool/a%2bb_1_all.deb  Hash Sum mismatch",
        "ERROR: a+b_1_all: BAD signature",
    ],
)
def test_a_package_that_a_failed_command_names_is_fetched_anew(
    mirror: Mirror, client: Client, another: Client, line: str
) -> None:
    other = mirror.serve("/pool/c_1_all.deb", b"other")
    url = mirror.serve("/pool/a%2bb_1_all.deb", b"wrong")
    assert (client.get(url), client.get(other)) == (b"wrong", b"other")
    client.session.doubt(["Reading package lists...", line])
    mirror.serve("/pool/a%2bb_1_all.deb", b"right")
    assert (another.get(url), another.get(other)) == (b"right", b"other")
    assert mirror.paths().count("/pool/c_1_all.deb") == 1


@pytest.mark.parametrize("validator", ["ETag", "Last_Modified"])
def test_an_index_is_asked_for_again(mirror: Mirror, client: Client, validator: str) -> None:
    url = mirror.serve(INDEX, b"first", **{validator: "1"})
    assert client.get(url) == client.get(url) == b"first"
    mirror.serve(INDEX, b"second", **{validator: "2"})
    assert client.get(url) == b"second"
    asked = [set(headers) & {"If-None-Match", "If-Modified-Since"} for _, headers in mirror.asked]
    assert [len(names) for names in asked] == [0, 1, 1]


def test_a_client_that_has_it_already(mirror: Mirror, client: Client) -> None:
    url = mirror.serve(INDEX, b"content", Last_Modified="yesterday")
    client.get(url)
    response, content = client.request("GET", url, If_Modified_Since="yesterday")
    assert (response.status, content) == (304, b"")
    assert client.get(url, If_Modified_Since="long ago") == b"content"


def test_a_damaged_file_is_fetched_anew(mirror: Mirror, client: Client, another: Client, store: Store) -> None:
    url = mirror.serve(PACKAGE, b"package")
    client.get(url)
    store.content(hashlib.sha256(b"package").hexdigest()).write_bytes(b"damaged")
    assert another.get(url) == b"package"
    assert len(mirror.asked) == 2


@pytest.mark.parametrize("control", ["no-store", "private, max-age=60"])
def test_what_must_not_be_kept(mirror: Mirror, client: Client, store: Store, control: str) -> None:
    assert client.get(mirror.serve(PACKAGE, b"package", Cache_Control=control)) == b"package"
    assert not store.urls.exists()


@pytest.mark.parametrize("header", ["Authorization", "Cookie"])
def test_what_is_for_one_person_is_not_kept(mirror: Mirror, client: Client, store: Store, header: str) -> None:
    assert client.get(mirror.serve(PACKAGE, b"package"), **{header: SECRET}) == b"package"
    assert mirror.asked[0][1][header] == SECRET
    assert not store.urls.exists()
    client.get(mirror.url(PACKAGE))
    assert client.get(mirror.url(PACKAGE), **{header: SECRET}) == b"package"
    assert len(mirror.asked) == 3


@pytest.mark.parametrize("header", [{}, {"Authorization": SECRET}])
def test_the_file_and_no_metalink(mirror: Mirror, client: Client, another: Client, header: dict[str, str]) -> None:
    """libzypp would take one, with the time in it, from openSUSE's server."""
    libzypp = "*/*, application/metalink+xml, application/metalink4+xml"
    url = mirror.serve(INDEX, b"index")
    mirror.metalinks[INDEX] = b"where there are mirrors of it now"
    assert client.get(url, Accept=libzypp, **header) == another.get(url) == b"index"


@pytest.mark.parametrize("status", [300, 401, 404, 500])
def test_other_answers_are_passed_on(mirror: Mirror, client: Client, store: Store, status: int) -> None:
    url = mirror.serve(PACKAGE, b"told", status, Retry_After="5")
    response, content = client.request("GET", url)
    assert (response.status, content) == (status, b"told")
    assert response.getheader("Retry-After") == "5"
    assert not store.urls.exists()
    assert client.fetched() == ()


def test_head(mirror: Mirror, client: Client) -> None:
    url = mirror.serve(PACKAGE, b"package")
    for _ in range(2):
        response, content = client.request("HEAD", url)
        assert (response.status, response.getheader("Content-Length"), content) == (200, "7", b"")


def test_a_body_without_a_length(mirror: Mirror, client: Client, another: Client) -> None:
    url = mirror.serve(PACKAGE, b"package" * 100, Transfer_Encoding="chunked")
    assert client.get(url) == another.get(url) == b"package" * 100
    assert len(mirror.asked) == 1


def test_a_body_that_is_cut_off(mirror: Mirror, client: Client, store: Store) -> None:
    url = mirror.serve(PACKAGE, b"package")
    mirror.cut[PACKAGE] = 4
    with pytest.raises(http.client.IncompleteRead):
        client.get(url)
    assert not store.urls.exists()
    mirror.cut.clear()
    assert client.get(url) == b"package"


def test_an_old_client(mirror: Mirror, client: Client) -> None:
    """Says HTTP/1.0, so it knows no chunks."""
    url = mirror.serve(PACKAGE, b"package", Transfer_Encoding="chunked")
    with client.connect() as connection:
        connection.sendall(f"GET {url} HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\npackage")


def test_one_connection_for_many(mirror: Mirror, client: Client) -> None:
    connection = client.open()
    for number in range(5):
        url = mirror.serve(f"/{number}.deb", str(number).encode(), 200 if number % 2 else 404)
        connection.request("GET", url)
        assert connection.getresponse().read() == str(number).encode()
    connection.close()


@pytest.mark.parametrize("told", ["", "0" * 32, "\xe9", "x" * 200, "GET {url} HTTP/1.1"])
def test_only_those_who_know_a_token(mirror: Mirror, client: Client, told: str) -> None:
    url = mirror.serve(PACKAGE, b"package")
    with socket.create_connection(("127.0.0.1", client.proxy.port)) as connection:
        connection.sendall(f"{told.format(url=url)}\nGET {url} HTTP/1.0\r\n\r\n".encode("latin-1"))
        with contextlib.suppress(ConnectionResetError):  # what was said was not read
            assert connection.recv(100) == b""
    assert mirror.asked == []


def test_a_token_ends_with_its_session(mirror: Mirror, client: Client) -> None:
    url = mirror.serve(PACKAGE, b"package")
    with client.proxy.session(client.session.access) as session:
        short = Client(client.proxy, session)
        waiting = short.open()
        assert short.get(url) == b"package"
    with pytest.raises((http.client.HTTPException, OSError)):
        waiting.request("GET", url)
        waiting.getresponse()
    with pytest.raises((http.client.HTTPException, OSError)):
        short.get(url)
    assert client.get(url) == b"package", "others go on"
    waiting.close()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods(mirror: Mirror, client: Client, method: str) -> None:
    assert client.status(mirror.serve("/", b""), method) == 501
    assert mirror.asked == []


def test_a_server_that_is_not_there(network: Network) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        assert network.client(Policy(named=frozenset({place}))).status(f"http://{place}/") == 502


def test_a_server_that_speaks_no_http(network: Network) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            while True:
                try:
                    connection, _address = server.accept()
                except OSError:  # shut down
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"this is no HTTP\r\n\r\n")

        talker = threading.Thread(target=babble, daemon=True)
        talker.start()
        place = f"127.0.0.1:{server.getsockname()[1]}"
        assert network.client(Policy(named=frozenset({place}))).status(f"http://{place}/") == 502
        server.shutdown(socket.SHUT_RDWR)
        talker.join(20)
        assert not talker.is_alive()


def test_the_hosts_own_proxy(mirror: Mirror, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:{SECRET}@127.0.0.1:{mirror.port}")
    mirror.answers["http://far.invalid/a.deb"] = (200, {}, b"from afar")
    assert client.get("http://far.invalid/a.deb") == b"from afar"
    ((_, headers),) = mirror.asked
    assert base64.b64decode(headers["Proxy-Authorization"].removeprefix("Basic ")).decode() == f"me:{SECRET}"
    assert headers["Host"] == "far.invalid"
    for url in ("http://127.0.0.1/", "http://169.254.169.254/", "http://localhost/"):
        assert client.status(url) == 403
    assert client.get(mirror.serve("/direct", b"direct")) == b"direct", "the host itself is not behind it"
    monkeypatch.setenv("no_proxy", "far.invalid")
    assert client.status("http://far.invalid/b.deb") == 502, "it is gone to directly"


def test_the_token_goes_nowhere(mirror: Mirror, client: Client) -> None:
    client.get(mirror.serve(PACKAGE, b"package"))
    ((_, headers),) = mirror.asked
    assert client.session.token not in str(headers)


def test_a_full_disk_hinders_nobody(
    mirror: Mirror, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Draft, "write", lambda self, data: False)
    assert client.get(mirror.serve("/write.deb", b"package")) == b"package"
    assert list(store.contents.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(Draft, "keep", full)
    assert client.get(mirror.serve("/keep.deb", b"package")) == b"package"


def test_a_disk_that_fills_up_hinders_nobody_twice(
    mirror: Mirror, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been begun breaks off; the next attempt is passed on."""
    content = bytes(5 << 20)
    url = mirror.serve(PACKAGE, content)
    write = Draft.write
    monkeypatch.setattr(Draft, "write", lambda self, data: self.size < 1 << 20 and write(self, data))
    with pytest.raises(http.client.IncompleteRead):
        client.get(url)
    assert client.session.told == [f"failed: {url}: the download cache has no room for it"]
    assert client.get(url) == content
    assert list(store.contents.iterdir()) == []


def test_a_disk_that_has_no_room_for_all_of_it(mirror: Mirror, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(Draft, "write", lambda self, data: pytest.fail("it is known before"))
    assert client.get(mirror.serve(PACKAGE, b"package")) == b"package"


def test_what_is_very_large_is_passed_on_only(
    mirror: Mirror, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_KEPT", 1000)
    assert client.get(mirror.serve(PACKAGE, bytes(5 << 20))) == bytes(5 << 20)
    assert not store.urls.exists()
    assert list(store.contents.glob("*")) == []


def test_too_many_clients(mirror: Mirror, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.proxy._server, "_free", threading.BoundedSemaphore(1))
    url = mirror.serve(INDEX, b"content")
    with client.connect() as first:
        first.sendall(b"GET ")
        with pytest.raises(OSError):
            client.get(url)


def test_closing_ends_everything(network: Network) -> None:
    """Even while a server keeps us waiting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        client = network.client(Policy(named=frozenset({place})))
        failed = threading.Event()

        def ask() -> None:
            try:
                client.get(f"http://{place}/")
            except (OSError, http.client.HTTPException, AssertionError):
                failed.set()

        asking = threading.Thread(target=ask)
        asking.start()
        connection, _ = silent.accept()
        connection.recv(1 << 16)
        client.proxy.close()
        asking.join(60)
        assert failed.is_set()
        assert connection.recv(1) == b"", "the server is not kept waiting either"
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", client.proxy.port))


def test_unpacked(mirror: Mirror, network: Network, tmp_path: Path) -> None:
    """From upstream and from the cache, as soon as the client has the package."""
    content = package(lzma.compress(b"text" * 50_000))
    url = mirror.serve(PACKAGE, content)
    mirror.serve(INDEX, package(lzma.compress(b"no package by its name")))
    digest = hashlib.sha256(content).hexdigest()
    for attempt in range(2):
        exchange = Exchange(tmp_path / f"exchange-{attempt}")
        client = network.client(exchange=exchange)
        assert client.get(url) == content
        index = hashlib.sha256(client.get(mirror.url(INDEX))).hexdigest()
        response, answer = client.request("POST", "/unpacked", json.dumps(["0" * 64, digest, index]).encode())
        assert response.status == 200
        found, offset, length = answer.decode().split()
        assert found == digest
        with exchange.path.open("rb") as file:
            file.seek(int(offset))
            assert file.read(int(length)) == unpacked(content)
        client.proxy.close()
        exchange.close()
    assert mirror.paths().count(PACKAGE) == 1


@pytest.mark.parametrize("question", [b"", b"no json", b"{", b"1", b'["a"', b"x" * (module.MAX_QUESTION + 1)])
def test_a_question_that_is_none(network: Network, tmp_path: Path, question: bytes) -> None:
    exchange = Exchange(tmp_path / "exchange")
    client = network.client(exchange=exchange)
    try:
        answer = client.request("POST", "/unpacked", question)[1]
        assert b" " not in answer or b"nothing here" in answer
    except (OSError, http.client.HTTPException):
        pass  # hung up on
    assert client.request("POST", "/unpacked", b"[]")[1] == b""
    client.proxy.close()
    exchange.close()
