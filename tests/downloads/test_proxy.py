"""The download proxy: what is fetched again, what never is, where a guest may not go, and what nobody sees."""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import json
import lzma
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sfvm.downloads import proxy as module
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.proxy import Proxy
from sfvm.downloads.store import Store
from sfvm.downloads.upstream import HOST, Refused, Target, allowed
from tests.downloads.test_unpack import package, unpacked

SECRET = "very-secret"


@dataclass
class Mirror:
    """A web server of the test's own. *answers* are status, headers and body by path; *asked* is what was asked for."""

    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    def url(self, path: str) -> str:
        """As a guest names it."""
        return f"http://{HOST}:{self.port}{path}"

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        self.answers[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        return self.url(path)

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    known = Mirror()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known.asked.append((self.path, dict(self.headers)))
            status, headers, body = known.answers.get(self.path, (404, {}, b"not here"))
            same = {
                self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")
            } & {headers.get("ETag"), headers.get("Last-Modified")} - {None}  # fmt: skip
            if same:
                status, body = 304, b""
            self.send_response(status)
            length = len(body) + int(headers.get("X-Missing", "0"))
            for name, value in (
                {} if "Transfer-Encoding" in headers else {"Content-Length": str(length)} | headers
            ).items():
                self.send_header(name, value)
            if "Transfer-Encoding" in headers:
                self.send_header("Transfer-Encoding", "chunked")
                body = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            if "X-Missing" in headers:
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Not in the test's output."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        known.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield known
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def nothing_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@dataclass
class Client:
    proxy: Proxy

    def request(
        self, method: str, url: str, body: bytes = b"", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=30)
        told = {"Proxy-Authorization": f"Basic {self.proxy.credentials}"}
        told |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, url, body or None, told)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content

    def get(self, url: str, **headers: str) -> bytes:
        response, content = self.request("GET", url, **headers)
        assert response.status == 200, content
        return content

    def status(self, url: str, method: str = "GET", **headers: str) -> int:
        return self.request(method, url, **headers)[0].status


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mirror")


@pytest.fixture
def client(store: Store) -> Iterator[Client]:
    proxy = Proxy(store)
    yield Client(proxy)
    proxy.close()


@pytest.fixture
def another(store: Store) -> Iterator[Client]:
    """Of another build, with the same cache."""
    proxy = Proxy(store)
    yield Client(proxy)
    proxy.close()


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


@pytest.mark.parametrize("header", ["Authorization", "Cookie", "Range"])
def test_what_is_for_one_person_is_not_kept(mirror: Mirror, client: Client, store: Store, header: str) -> None:
    assert client.get(mirror.serve(PACKAGE, b"package"), **{header: SECRET}) == b"package"
    assert mirror.asked[0][1][header] == SECRET
    assert not store.urls.exists()
    client.get(mirror.url(PACKAGE))
    assert client.get(mirror.url(PACKAGE), **{header: SECRET}) == b"package"
    assert len(mirror.asked) == 3


@pytest.mark.parametrize("status", [301, 401, 404, 500])
def test_other_answers_are_passed_on(mirror: Mirror, client: Client, store: Store, status: int) -> None:
    url = mirror.serve(PACKAGE, b"told", status, Location="http://elsewhere.invalid/")
    response, content = client.request("GET", url)
    assert (response.status, content) == (status, b"told")
    assert response.getheader("Location") == "http://elsewhere.invalid/"
    assert not store.urls.exists()


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
    url = mirror.serve(PACKAGE, b"package", X_Missing="10")
    with pytest.raises(http.client.IncompleteRead):
        client.get(url)
    assert not store.urls.exists()
    mirror.serve(PACKAGE, b"package")
    assert client.get(url) == b"package"


def test_an_old_client(mirror: Mirror, client: Client) -> None:
    """Says HTTP/1.0, so it knows no chunks."""
    url = mirror.serve(PACKAGE, b"package", Transfer_Encoding="chunked")
    with socket.create_connection(("127.0.0.1", client.proxy.port)) as connection:
        connection.sendall(
            f"GET {url} HTTP/1.0\r\nProxy-Authorization: Basic {client.proxy.credentials}\r\n\r\n".encode()
        )
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.endswith(b"\r\n\r\npackage")


def test_one_connection_for_many(mirror: Mirror, client: Client) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", client.proxy.port)
    for number in range(5):
        url = mirror.serve(f"/{number}.deb", str(number).encode(), 200 if number % 2 else 404)
        connection.request("GET", url, headers={"Proxy-Authorization": f"Basic {client.proxy.credentials}"})
        assert connection.getresponse().read() == str(number).encode()
    connection.close()


@pytest.mark.parametrize("told", ["", "Basic", "Basic c2Z2bTpndWVzcw==", "Bearer x", "Basic \xe9"])
def test_only_those_who_know_the_token(mirror: Mirror, client: Client, told: str) -> None:
    response, _ = client.request("GET", mirror.serve(PACKAGE, b"package"), Proxy_Authorization=told)
    assert response.status == 407
    assert client.request("POST", "/unpacked", b"[]", Proxy_Authorization=told)[0].status == 404
    assert mirror.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/", "http://localhost:{port}/", "http://[::1]:{port}/", "http://0.0.0.0:{port}/",
        "http://127.1.2.3:{port}/", "http://[::ffff:127.0.0.1]:{port}/", "http://2130706433:{port}/",
        "http://169.254.169.254/", "http://169.254.2.3/", "http://[fe80::1]/", "http://224.0.0.1/", "http://240.0.0.1/",
        "http://[2002:7f00:1::]/", "https://169.254.2.2:{port}/", "ftp://169.254.2.2:{port}/", "file:///etc/passwd",
        "/",
        "http://user:word@169.254.2.2:{port}/", "http://169.254.2.2:port/", "http://169.254.2.2:99999/", "http:///",
    ],
)  # fmt: skip
def test_where_a_guest_may_not_go(mirror: Mirror, client: Client, url: str) -> None:
    mirror.serve("/", b"secret")
    assert client.status(url.format(port=mirror.port)) == 403
    assert mirror.asked == []


def test_a_name_that_stands_for_the_host(mirror: Mirror, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked up once: what is connected to is what was judged."""
    answers = iter(["127.0.0.1", "169.254.169.254"])

    def lookup(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), mirror.port))]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    for _ in range(2):
        with pytest.raises(Refused):
            module.Connections().request("GET", Target.parse("http://rebinding.invalid/"), {})
    assert mirror.asked == []


@pytest.mark.parametrize("address", ["10.1.2.3", "192.168.1.1", "8.8.8.8", "2001:4860:4860::8888", "fd00::1"])
def test_where_it_may_go(address: str) -> None:
    """Mirrors in the user's own network too, as QEMU's user-mode network lets it."""
    assert ipaddress.ip_address(address)
    assert allowed(address)


@pytest.mark.parametrize("method", ["CONNECT", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods(mirror: Mirror, client: Client, method: str) -> None:
    assert client.status(mirror.serve("/", b""), method) == 501
    assert mirror.asked == []


def test_a_server_that_is_not_there(client: Client) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        assert client.status(f"http://{HOST}:{nobody.getsockname()[1]}/") == 502


def test_a_server_that_speaks_no_http(client: Client) -> None:
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
        assert client.status(f"http://{HOST}:{server.getsockname()[1]}/") == 502
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
    assert client.proxy.credentials not in str(headers)
    assert client.proxy.token not in str(headers)


def test_a_full_disk_hinders_nobody(
    mirror: Mirror, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.Draft, "write", lambda self, data: False)
    assert client.get(mirror.serve("/write.deb", b"package")) == b"package"
    assert list(store.contents.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.setattr(module.Draft, "keep", full)
    assert client.get(mirror.serve("/keep.deb", b"package")) == b"package"


def test_what_is_very_large_is_passed_on_only(
    mirror: Mirror, client: Client, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KEPT", 1000)
    assert client.get(mirror.serve(PACKAGE, bytes(5 << 20))) == bytes(5 << 20)
    assert not store.urls.exists()
    assert list(store.contents.iterdir()) == []


def test_too_many_clients(mirror: Mirror, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.proxy._server, "_free", threading.BoundedSemaphore(1))
    url = mirror.serve(INDEX, b"content")
    with socket.create_connection(("127.0.0.1", client.proxy.port)) as first:
        first.sendall(b"GET ")
        with pytest.raises(OSError):
            client.get(url)


def test_closing_ends_everything(store: Store) -> None:
    """Even while a server keeps us waiting."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = Proxy(store)
        failed = threading.Event()

        def ask() -> None:
            try:
                Client(proxy).get(f"http://{HOST}:{silent.getsockname()[1]}/")
            except (OSError, http.client.HTTPException, AssertionError):
                failed.set()

        asking = threading.Thread(target=ask)
        asking.start()
        connection, _ = silent.accept()
        connection.recv(1 << 16)
        proxy.close()
        asking.join()
        assert failed.is_set()
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


def test_unpacked(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    """From upstream and from the cache, as soon as the client has the package."""
    content = package(lzma.compress(b"text" * 50_000))
    url = mirror.serve(PACKAGE, content)
    mirror.serve(INDEX, package(lzma.compress(b"no package by its name")))
    digest = hashlib.sha256(content).hexdigest()
    for attempt in range(2):
        exchange = Exchange(tmp_path / f"exchange-{attempt}")
        proxy = Proxy(store, exchange)
        client = Client(proxy)
        assert client.get(url) == content
        index = hashlib.sha256(client.get(mirror.url(INDEX))).hexdigest()
        response, answer = client.request("POST", "/unpacked", json.dumps(["0" * 64, digest, index]).encode())
        assert response.status == 200
        found, offset, length = answer.decode().split()
        assert found == digest
        with exchange.path.open("rb") as file:
            file.seek(int(offset))
            assert file.read(int(length)) == unpacked(content)
        proxy.close()
        exchange.close()
    assert mirror.paths().count(PACKAGE) == 1


@pytest.mark.parametrize("question", [b"", b"no json", b"{", b"1", b'["a"', b"x" * (module.MAX_QUESTION + 1)])
def test_a_question_that_is_none(store: Store, tmp_path: Path, question: bytes) -> None:
    exchange = Exchange(tmp_path / "exchange")
    proxy = Proxy(store, exchange)
    try:
        answer = Client(proxy).request("POST", "/unpacked", question)[1]
        assert b" " not in answer or b"nothing here" in answer
    except (OSError, http.client.HTTPException):
        pass  # hung up on
    assert Client(proxy).request("POST", "/unpacked", b"[]")[1] == b""
    proxy.close()
    exchange.close()
