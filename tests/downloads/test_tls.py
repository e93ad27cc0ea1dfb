"""Over TLS, through tunnels, or not at all."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sfvm.downloads.fetched import Fetched, distinct
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.downloads.upstream import Line, Pool, Target
from tests.downloads.conftest import Writing
from tests.downloads.servers import Client, Mirror, Network, serving
from tests.downloads.test_transfer import CONTENT, PACKAGE, SHA256, named
from tests.guests.project import eventually


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The certificate of a throw-away CA, and one for 127.0.0.1 with its key."""
    home = tmp_path_factory.mktemp("authority")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=home, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=throw-away", "-days", "2")
    openssl("req", *key, "-keyout", "key.pem", "-out", "request", "-subj", "/CN=mirror")
    (home / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "request", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "extensions", "-out", "cert.pem")  # fmt: skip
    (home / "both.pem").write_text((home / "cert.pem").read_text() + (home / "key.pem").read_text())
    return home / "ca.pem", home / "both.pem"


@pytest.fixture
def secure(authority: tuple[Path, Path]) -> Iterator[Mirror]:
    with serving(authority[1]) as known:
        yield known


def over(secure: Mirror) -> Policy:
    return replace(named(secure), tls=frozenset({secure.place}))


def test_https_in_the_open(
    secure: Mirror, network: Network, authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client says http; its server is reached by https, and what it has is kept and known."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    url = secure.serve(PACKAGE, CONTENT)
    client = network.client(over(secure))
    assert client.get(url.replace("https:", "http:")) == CONTENT
    assert network.client(over(secure)).get(url.replace("https:", "http:")) == CONTENT
    assert secure.paths() == [PACKAGE]
    (fetched,) = client.fetched()
    assert (fetched.url, fetched.sha256) == (url, SHA256)


def test_certificates_are_verified(secure: Mirror, network: Network) -> None:
    url = secure.serve(PACKAGE, CONTENT)
    response, why = network.client(over(secure)).request("GET", url.replace("https:", "http:"))
    assert response.status == 502
    assert "CERTIFICATE_VERIFY_FAILED" in why.decode()
    assert secure.asked == []


def test_a_tunnel(secure: Mirror, network: Network, authority: tuple[Path, Path]) -> None:
    """TLS is the client's own; the bytes are counted."""
    secure.serve(PACKAGE, CONTENT)
    client = network.client(named(secure))
    connection = http.client.HTTPSConnection(
        "127.0.0.1", client.proxy.port, timeout=30, context=ssl.create_default_context(cafile=str(authority[0]))
    )
    connection.set_tunnel("127.0.0.1", secure.port)
    connection._create_connection = lambda *_: client.connect()  # type: ignore[attr-defined]
    connection.request("GET", PACKAGE)
    assert connection.getresponse().read() == CONTENT
    connection.close()
    client.proxy.close()
    (fetched,) = client.fetched()
    assert fetched.tunnel
    assert fetched.url == f"https://{secure.place}"
    assert fetched.size > len(CONTENT)


@pytest.mark.parametrize("place", ["127.0.0.1:1", "169.254.169.254:443", "example.org:22", "example.org", "a:b", "/"])
def test_where_no_tunnel_leads(client: Client, place: str) -> None:
    assert client.status(place, "CONNECT") == 403
    assert len(client.session.told) == 1


def test_tunnels_to_one_place_are_told_as_one() -> None:
    one, two = Fetched("https://h:443", "", 1000, 0.5, False), Fetched("https://h:443", "", 2000, 0.25, False)
    other = Fetched("https://i:443", "", 1, 0, False)
    assert distinct([*distinct([one, other]), two]) == (Fetched("https://h:443", "", 3000, 0.75, False), other)


def test_a_tunnel_with_a_lock(secure: Mirror, network: Network) -> None:
    assert network.client(replace(named(secure), locked={})).status(secure.place, "CONNECT") == 403


def waiting(used: socket.socket | None, size: int) -> None:
    """Until so many bytes, as they came, are in the socket."""
    assert used is not None
    assert eventually(lambda: len(socket.socket.recv(used, size, socket.MSG_PEEK)) == size)


def test_nothing_but_the_body_is_read_when_the_line_is_cut(
    secure: Mirror, authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    body, line, pool = bytes(100_000), Line(), Pool()
    answer = pool.ask("GET", Target.parse(secure.serve(PACKAGE, body), over(secure)), {}, over(secure), line)
    blocks = answer.blocks()
    found = next(blocks)
    waiting(line._socket, 50_000)
    line.cut()
    with contextlib.suppress(OSError, http.client.HTTPException):
        for block in blocks:
            found += block
    answer.close()
    pool.close()
    assert body.startswith(found)


def test_what_is_given_up_is_never_kept_with_ciphertext_in_it(
    secure: Mirror, store: Store, authority: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, writing: Writing
) -> None:
    """While a block is written, records wait in the socket: as many as the body has bytes, and more."""
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    body = bytes(100_000)
    target = Target.parse(secure.serve(PACKAGE, body), over(secure))
    transfers = Transfers(store)
    with transfers.follow(target, over(secure), {}, "", 0) as reader:
        assert writing.arrived.wait(30)
        waiting(reader.transfer._line._socket, len(body) - 16384)  # all but one record
    writing.goes_on.set()
    transfers.close()
    with store.open(target.url) as known:
        assert known is None or known[1].read() == body
