"""Transfers: shared, continued, redirected, checked."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from sfvm.downloads import upstream
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import MAX_RESUMES, Reader, Transfers
from sfvm.downloads.upstream import MAX_REDIRECTS, Line, Pool, Target
from tests.downloads.conftest import Writing
from tests.downloads.servers import Client, Mirror, Network, serving
from tests.guests.project import eventually

CONTENT = bytes(range(256)) * 20_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACKAGE = "/pool/a_1.rpm"


def named(*mirrors: Mirror) -> Policy:
    return Policy(named=frozenset(mirror.place for mirror in mirrors))


# Shared


def test_who_asks_for_the_same_follows_the_same(mirror: Mirror, client: Client, network: Network) -> None:
    """Also one of another appliance, and also for the part that is there already."""
    url = mirror.serve(PACKAGE, CONTENT)
    mirror.gates[PACKAGE] = threading.Event()
    others = [network.another(client.session.access) for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        first = client.open()
        first.request("GET", url)
        response = first.getresponse()
        half = response.read(len(CONTENT) // 4)
        waiting = [pool.submit(other.get, url) for other in others]
        assert eventually(lambda: _readers(client) == 4)
        mirror.gates[PACKAGE].set()
        assert half + response.read() == CONTENT
        assert [future.result() for future in waiting] == [CONTENT] * 3
        first.close()
    assert mirror.paths() == [PACKAGE]
    (fetched,) = client.fetched()
    assert (fetched.url, fetched.sha256, fetched.size, fetched.cached) == (url, SHA256, len(CONTENT), False)


def test_who_looks_just_before_another_has_it_takes_the_same(
    mirror: Mirror, client: Client, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has nothing yet; then the transfer ends; then there is nobody to follow."""
    url = mirror.serve(PACKAGE, CONTENT)
    other, stored = network.another(client.session.access), Access.stored

    @contextlib.contextmanager
    def late(*arguments: Any) -> Iterator[Any]:
        with stored(*arguments) as known:
            monkeypatch.setattr(Access, "stored", stored)
            assert other.get(url) == CONTENT
            yield known

    monkeypatch.setattr(Access, "stored", late)
    assert client.get(url) == CONTENT
    assert mirror.paths() == [PACKAGE]


def test_who_goes_leaves_it_to_others(mirror: Mirror, client: Client, network: Network) -> None:
    url = mirror.serve(PACKAGE, CONTENT)
    mirror.gates[PACKAGE] = threading.Event()
    other = network.another(client.session.access)
    with ThreadPoolExecutor() as pool:
        first = client.open()
        first.request("GET", url)
        response = first.getresponse()
        response.read(10)
        waiting = pool.submit(other.get, url)
        assert eventually(lambda: client.session.access.transfers._running and _readers(client) == 2)
        response.close()
        first.close()
        client.proxy.close()
        mirror.gates[PACKAGE].set()
        assert waiting.result() == CONTENT
    assert mirror.paths() == [PACKAGE]


def _readers(client: Client) -> int:
    return sum(transfer.readers for transfer in client.session.access.transfers._running.values())


def test_what_nobody_wants_is_given_up(mirror: Mirror, client: Client, store: Store) -> None:
    url = mirror.serve(PACKAGE, CONTENT)
    mirror.gates[PACKAGE] = threading.Event()
    connection = client.open()
    connection.request("GET", url)
    connection.getresponse().read(10)
    client.proxy.close()
    client.session.access.transfers.close()
    mirror.gates[PACKAGE].set()
    connection.close()
    assert list(store.contents.iterdir()) == []
    assert not store.urls.exists()


def test_what_has_no_length_and_is_given_up_is_not_kept(mirror: Mirror, store: Store, writing: Writing) -> None:
    """Nothing but the end of the connection says that it is whole."""
    target = Target.parse(mirror.serve(PACKAGE, CONTENT, Connection="close"), named(mirror))
    mirror.lengths = False
    mirror.gates[PACKAGE] = threading.Event()
    transfers = Transfers(store)
    with transfers.follow(target, named(mirror), {}, "", 0):
        assert writing.arrived.wait(30)
    writing.goes_on.set()
    transfers.close()
    mirror.gates[PACKAGE].set()
    with store.open(target.url) as known:
        assert known is None


# Continued


@pytest.mark.parametrize("validator", ["ETag", "Last_Modified"])
def test_what_breaks_off_is_continued(mirror: Mirror, client: Client, validator: str) -> None:
    url = mirror.serve(PACKAGE, CONTENT, **{validator: "same"})
    mirror.cut[PACKAGE] = len(CONTENT) // 3
    assert client.get(url) == CONTENT
    ranges = [int(headers["Range"][6:-1]) for _, headers in mirror.asked[1:]]
    assert len(ranges) >= 3
    assert ranges == sorted(ranges), "each time some more has come"
    assert len(mirror.asked) <= 1 + MAX_RESUMES


@pytest.mark.parametrize("headers", [{}, {"Transfer_Encoding": "chunked"}])
def test_a_part_that_is_shorter_than_asked_is_not_the_rest(
    mirror: Mirror, client: Client, another: Client, headers: dict[str, str]
) -> None:
    """Whether the first answer has said how long all of it is, or the part does."""
    content = CONTENT[:10_000]
    url = mirror.serve(PACKAGE, content, ETag='"1"', **headers)
    mirror.cut[PACKAGE] = mirror.parts[PACKAGE] = 3_000
    assert client.get(url) == another.get(url) == content
    assert [headers.get("Range") for _, headers in mirror.asked] == [None, *(f"bytes={n}000-" for n in (3, 6, 9))]


@pytest.mark.parametrize(("tag", "cut"), [("", 1000), ('W/"weak"', 1000), ('"tag"', 0)])
def test_what_cannot_be_continued_is_not(mirror: Mirror, client: Client, tag: str, cut: int) -> None:
    """Without a strong validator, or where nothing comes."""
    url = mirror.serve(PACKAGE, CONTENT, **({"ETag": tag} if tag else {}))
    mirror.cut[PACKAGE] = cut
    with pytest.raises((http.client.HTTPException, OSError, AssertionError)):
        client.get(url)
    assert len(mirror.asked) == 1


def test_another_content_is_no_continuation(mirror: Mirror, client: Client, store: Store) -> None:
    url = mirror.serve(PACKAGE, CONTENT, ETag='"1"')
    mirror.cut[PACKAGE] = len(CONTENT) // 2
    mirror.gates[PACKAGE] = threading.Event()
    connection = client.open()
    connection.request("GET", url)
    response = connection.getresponse()
    response.read(10)
    mirror.serve(PACKAGE, bytes(len(CONTENT)), ETag='"2"')
    mirror.gates[PACKAGE].set()
    with pytest.raises(http.client.IncompleteRead):
        response.read()
    connection.close()
    assert not store.urls.exists()


@pytest.mark.parametrize(("asked", "told"), [("bytes=5-", (5, None)), ("bytes=5-9", (5, 10)), ("bytes=0-", (0, None))])
def test_a_part_for_a_client(mirror: Mirror, client: Client, asked: str, told: tuple[int, int | None]) -> None:
    url = mirror.serve(PACKAGE, CONTENT, ETag='"1"')
    for _ in ("from upstream", "from the cache"):
        response, content = client.request("GET", url, Range=asked)
        assert (response.status, content) == (206, CONTENT[slice(*told)])
        last = (told[1] or len(CONTENT)) - 1
        assert response.getheader("Content-Range") == f"bytes {told[0]}-{last}/{len(CONTENT)}"
    assert client.get(url, Range="bytes=5-", If_Range='"another"') == CONTENT
    assert client.get(url, Range="bytes=1-2,4-5") == CONTENT
    assert client.get(url, Range=f"bytes={len(CONTENT)}-") == CONTENT
    assert all("Range" not in headers for _, headers in mirror.asked)


def test_who_has_its_part_sleeps_until_the_whole_is_there(
    mirror: Mirror, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, wait = [], Reader.wait

    def counted(reader: Reader, offset: int) -> tuple[int, bool]:
        looks.append(offset)
        return wait(reader, offset)

    monkeypatch.setattr(Reader, "wait", counted)
    url = mirror.serve(PACKAGE, CONTENT)
    mirror.gates[PACKAGE] = threading.Event()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.request, "GET", url, Range="bytes=0-9")
        assert eventually(lambda: len(looks) > 1)
        with contextlib.suppress(TimeoutError):
            waiting.result(0.2)
        mirror.gates[PACKAGE].set()
        assert waiting.result()[1] == CONTENT[:10]
    assert len(looks) == 2


def test_a_line_has_nothing_to_do_with_what_comes_next(mirror: Mirror) -> None:
    """Whoever cuts it late does not cut off the next one on the same connection."""
    pool, line = Pool(), Line()
    first = Target.parse(mirror.serve(PACKAGE, CONTENT), named(mirror))
    assert b"".join(pool.ask("GET", first, {}, named(mirror), line).blocks()) == CONTENT
    second = Target.parse(mirror.serve("/b", CONTENT), named(mirror))
    mirror.gates["/b"] = threading.Event()
    answer = pool.ask("GET", second, {}, named(mirror), Line())
    line.cut()
    mirror.gates["/b"].set()
    assert b"".join(answer.blocks()) == CONTENT
    pool.close()


def test_a_server_that_stalls(mirror: Mirror, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "STALLED", 2.0)
    url = mirror.serve(PACKAGE, CONTENT)
    mirror.gates[PACKAGE] = threading.Event()
    client = network.client()
    with pytest.raises(http.client.IncompleteRead):
        client.get(url)
    mirror.gates[PACKAGE].set()
    assert client.session.told == [f"failed: {url}: timed out"]
    assert client.fetched() == ()


# Redirected


def test_redirections_are_followed(mirror: Mirror, client: Client, network: Network) -> None:
    mirror.serve("/there.rpm", CONTENT)
    mirror.serve("/on", b"", 302, Location="there.rpm")
    url = mirror.serve("/a.rpm", b"", 301, Location=mirror.url("/on"))
    assert client.get(url) == CONTENT
    assert network.client().get(url) == CONTENT
    assert mirror.paths() == ["/a.rpm", "/on", "/there.rpm"], "and known by the first name"
    assert [fetched.url for fetched in client.fetched()] == [url]


@pytest.mark.parametrize(("steps", "why"), [(1, "in a loop"), (2, "in a loop"), (MAX_REDIRECTS + 5, "too often")])
def test_redirections_without_end(mirror: Mirror, client: Client, steps: int, why: str) -> None:
    for number in range(steps):
        mirror.serve(f"/{number}", b"", 302, Location=f"/{(number + 1) % steps}")
    response, content = client.request("GET", mirror.url("/0"))
    assert response.status == 502
    assert why in content.decode()
    assert len(mirror.asked) <= MAX_REDIRECTS + 1


@pytest.mark.parametrize("target", ["http://169.254.169.254/", "http://127.0.0.1:1/", "file:///etc/passwd", "ftp://a/"])
def test_each_redirection_is_judged(mirror: Mirror, client: Client, target: str) -> None:
    response, content = client.request("GET", mirror.serve("/a", b"", 302, Location=target))
    assert response.status == 403, content
    assert len(client.session.told) == 1


def test_a_command_that_lists_hosts_is_not_sent_elsewhere(network: Network) -> None:
    with serving() as other:
        policy = named(other)
        with serving() as mirror:
            client = network.client(replace(policy, named=policy.named | {mirror.place}), hosts=(mirror.place,))
            assert client.status(mirror.serve("/a", b"", 302, Location=other.serve("/b", b"secret"))) == 403
            assert client.status(other.url("/b")) == 403
            assert client.get(mirror.serve("/c", b"c")) == b"c"
        assert other.asked == []


@pytest.mark.parametrize("header", ["Authorization", "Cookie"])
def test_credentials_are_for_who_was_asked(mirror: Mirror, network: Network, header: str) -> None:
    with serving() as other:
        client = network.client(named(mirror, other))
        other.serve("/c", b"c")
        mirror.serve("/b", b"", 302, Location=other.url("/c"))
        assert client.get(mirror.serve("/a", b"", 302, Location="/b"), **{header: "mine"}) == b"c"
    assert [headers.get(header) for _, headers in (*mirror.asked, *other.asked)] == ["mine", "mine", None]


# Checked


@pytest.mark.parametrize("right", [True, False])
def test_by_hash(mirror: Mirror, network: Network, store: Store, right: bool) -> None:
    """The URL says what is right; another content does not arrive whole, and is not kept."""
    path = f"/dists/x/by-hash/SHA256/{SHA256}"
    url = mirror.serve(path, CONTENT if right else CONTENT[:-1] + b"x")
    client = network.client()
    if right:
        assert client.get(url) == network.client().get(url) == CONTENT
        assert len(mirror.asked) == 1
    else:
        with pytest.raises(http.client.IncompleteRead):
            client.get(url)
        assert client.fetched() == ()
        assert not store.content(SHA256).exists()


def test_locked(mirror: Mirror, network: Network, store: Store) -> None:
    index, other = mirror.serve("/InRelease", CONTENT, ETag='"1"'), mirror.serve("/other", b"other")
    lock = replace(named(mirror), locked={index: SHA256})
    client = network.client(lock)
    assert client.get(index) == CONTENT
    mirror.serve("/InRelease", b"a newer one", ETag='"2"')
    assert client.get(index) == client.get(index, If_Modified_Since="now") == CONTENT, "whatever it is now"
    assert network.client(lock).get(index) == CONTENT
    assert client.request("HEAD", index)[0].getheader("Content-Length") == str(len(CONTENT))
    assert mirror.paths() == ["/InRelease"]
    response, why = client.request("GET", other)
    assert response.status == 404, "as if there were no such thing"
    assert "the lock does not have it" in why.decode()
    assert client.session.told == [f"refused: {other}: the lock does not have it: make a new one (sfvm lock)"]
    assert [fetched.cached for fetched in client.fetched()] == [False]
    store.content(SHA256).unlink()
    with pytest.raises((http.client.HTTPException, AssertionError)):
        client.get(index)
    assert not store.content(SHA256).exists()
    assert f"{index}: its sha256 is {hashlib.sha256(b'a newer one').hexdigest()}" in client.session.told[-1]


@pytest.mark.parametrize("lock", [True, False])
def test_credentials_for_what_has_a_known_digest(mirror: Mirror, network: Network, store: Store, lock: bool) -> None:
    """They go with the request; what comes is kept by its digest, and under it alone."""
    path = PACKAGE if lock else f"/dists/x/by-hash/SHA256/{SHA256}"
    mirror.password = "mine"
    url = mirror.serve(path, CONTENT, Cache_Control="private")
    policy = replace(named(mirror), locked={url: SHA256} if lock else None)
    response, _ = network.client(policy).request("GET", url)
    assert (response.status, response.getheader("WWW-Authenticate")) == (401, "Basic"), "a client may ask for them then"
    client = network.client(policy)
    assert client.get(url, Authorization="mine") == CONTENT
    assert [fetched.sha256 for fetched in client.fetched()] == [SHA256]
    assert not store.urls.exists()
    offline = network.client(replace(policy, offline=True))
    assert offline.get(url, Authorization="mine") == offline.get(url) == CONTENT
    assert len(mirror.asked) == 2


def test_who_has_credentials_does_not_follow_who_has_none(mirror: Mirror, network: Network) -> None:
    url = mirror.serve(PACKAGE, CONTENT)
    mirror.password = "mine"
    mirror.gates[PACKAGE] = threading.Event()
    policy = replace(named(mirror), locked={url: SHA256})
    client = network.client(policy)
    with ThreadPoolExecutor() as pool:
        nobody = pool.submit(client.status, url)
        assert eventually(lambda: mirror.asked)
        me = pool.submit(network.another(client.session.access).get, url, Authorization="mine")
        assert eventually(lambda: len(mirror.asked) == 2)
        mirror.gates[PACKAGE].set()
        assert nobody.result() == 401
        assert me.result() == CONTENT


def test_what_is_locked_and_gone_is_told_once(mirror: Mirror, network: Network) -> None:
    gone = mirror.url(PACKAGE)
    client = network.client(replace(named(mirror), locked={gone: SHA256}))
    for _ in range(2):
        response, why = client.request("GET", gone)
        assert response.status == 403
        assert "the server says 404" in why.decode()
    (line,) = client.session.told
    assert line.startswith(f"refused: {gone}: the lock has it, the download cache does not")
    assert line.endswith("404 Not Found: make a new lock (sfvm update)"), "a mirror would be an input of the key"


def test_offline(mirror: Mirror, network: Network) -> None:
    there, index = mirror.serve(PACKAGE, CONTENT), mirror.serve("/InRelease", b"index", ETag='"1"')
    for url in (there, index):
        network.client().get(url)
    asked = len(mirror.asked)
    client = network.client(replace(named(mirror), offline=True))
    assert client.get(there) == client.get(there) == CONTENT
    assert client.get(index) == b"index"
    response, why = client.request("GET", mirror.serve("/new", b"new"))
    assert response.status == 403
    assert "offline: it is not in the download cache" in why.decode()
    assert client.status(mirror.url("/new"), "HEAD") == 403
    assert client.status(there, Cookie="mine") == 403
    assert client.status("example.org:443", "CONNECT") == 403
    assert len(mirror.asked) == asked
    assert {fetched.cached for fetched in client.fetched()} == {True}
