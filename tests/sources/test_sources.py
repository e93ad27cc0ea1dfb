"""Where content comes from: what is accepted, what is fetched, and what is not fetched twice."""

import hashlib
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.cancellation import Cancellation, Cancelled
from sfvm.errors import Place, SpecError
from sfvm.events import Event, Preparing
from sfvm.repository import Repository
from sfvm.sources import fetch as fetching
from sfvm.sources.fetch import fetch
from sfvm.verbs import Host
from tests.sources.servers import Web, web
from tests.verbs import Maker
from tests.verbs import host as host_of

PLACE = Place(Path("spec.xml"), 3)
CONTENT = os.urandom(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server() -> Iterator[Web]:
    with web(CONTENT) as made:
        yield made


def kept(host: Host) -> Path:
    return host.access.store.contents


def partial(host: Host) -> Path:
    return kept(host).parent / "partial"


def named(server: Web) -> dict[str, frozenset[str]]:
    """The policy of a user who has named the server."""
    return {"named": frozenset({f"127.0.0.1:{server.port}"})}


@pytest.fixture
def host(tmp_path: Path, server: Web) -> Iterator[Host]:
    """The downloads must be in order at the end: no draft of what is kept, nothing damaged."""
    made = host_of(tmp_path, **named(server))
    yield made
    for path in kept(made).glob("*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert not (partial(made) / path.name).exists()


def drafts(host: Host) -> list[int]:
    """The sizes of what is left to be continued."""
    return [path.stat().st_size for path in partial(host).glob("*")]


def refused(url: str, host: Host, sha256: str = SHA256) -> SpecError:
    with pytest.raises(SpecError) as caught:
        fetch(url, sha256, host.access, PLACE)
    assert caught.value.place == PLACE
    assert caught.value.hint
    return caught.value


def test_http_once(server: Web, host: Host) -> None:
    path = fetch(server.url, SHA256, host.access, PLACE)
    assert path == kept(host) / SHA256
    assert path.read_bytes() == CONTENT
    server.status = 500
    assert fetch("http://gone.invalid/elsewhere", SHA256, host.access, PLACE) == path, "the digest is the name"
    assert server.requests == [""]
    first, second = host.access.ledger.take()
    assert (first.url, first.sha256, first.size, first.cached) == (server.url, SHA256, len(CONTENT), False)
    assert (second.url, second.cached) == ("http://gone.invalid/elsewhere", True)


def test_what_was_damaged_meanwhile_is_fetched_again(server: Web, host: Host) -> None:
    path = fetch(server.url, SHA256, host.access, PLACE)
    path.write_bytes(b"x")
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_file(tmp_path: Path, host: Host) -> None:
    path = tmp_path / "a b.bin"
    path.write_bytes(CONTENT)
    found = fetch(f"file://{str(path).replace(' ', '%20')}", SHA256, host.access, PLACE)
    path.unlink()
    assert fetch(f"file://{path}", SHA256, host.access, PLACE).read_bytes() == CONTENT
    assert found.parent == kept(host)


@pytest.mark.parametrize("make", ["missing", "directory", "fifo"])
def test_what_is_no_file(tmp_path: Path, host: Host, make: str) -> None:
    path = tmp_path / "x"
    if make == "directory":
        path.mkdir()
    if make == "fifo":
        os.mkfifo(path)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    assert str(path) in str(refused(f"file://{path}", host).why)
    assert drafts(host) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_a_part_that_is_longer_than_the_file_is_another_files(tmp_path: Path, host: Host) -> None:
    drafts = kept(host).parent / "partial"
    drafts.mkdir(parents=True)
    (drafts / SHA256).write_bytes(CONTENT + b"more")
    (tmp_path / "x").write_bytes(CONTENT)
    assert fetch(f"file://{tmp_path}/x", SHA256, host.access, PLACE).read_bytes() == CONTENT


def test_a_wrong_digest(server: Web, host: Host) -> None:
    error = refused(server.url, host, "0" * 64)
    assert error.what == "d.bin is not what the spec expects"
    assert SHA256 in str(error.why)
    assert drafts(host) == [], "it is of no use to anybody"


def test_a_broken_transfer_goes_on(server: Web, host: Host) -> None:
    server.most = 1 << 20
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT
    assert server.requests == ["", f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


def test_a_part_that_is_shorter_than_asked_goes_on(server: Web, host: Host) -> None:
    server.most = server.part = 1 << 20
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT
    assert server.requests == ["", f"bytes={1 << 20}-", f"bytes={2 << 20}-"]


def test_without_ranges_it_begins_again_while_there_is_progress(server: Web, host: Host) -> None:
    server.most, server.ranges = 1 << 20, False
    error = refused(server.url, host)
    assert "the connection ended 2097152 bytes too early" in str(error.why)
    assert len(server.requests) == 2, "nothing was gained by the second"
    assert drafts(host) == [1 << 20]
    server.most = None
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT


def test_the_next_command_goes_on(server: Web, host: Host) -> None:
    server.most = 0
    (partial(host)).mkdir(parents=True)
    (partial(host) / SHA256).write_bytes(CONTENT[:12345])
    refused(server.url, host)
    assert drafts(host) == [12345]
    server.most = None
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT
    assert server.requests[-1] == "bytes=12345-"


def test_a_draft_of_something_else_is_given_up(server: Web, host: Host) -> None:
    (partial(host)).mkdir(parents=True)
    (partial(host) / SHA256).write_bytes(b"x" * 12345)
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT
    assert server.requests == ["bytes=12345-", ""]


@pytest.mark.parametrize("left", [CONTENT + b"more", CONTENT])
def test_a_draft_that_is_complete_or_too_long(server: Web, host: Host, left: bytes) -> None:
    (partial(host)).mkdir(parents=True)
    (partial(host) / SHA256).write_bytes(left)
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT
    assert len(server.requests) == (0 if left == CONTENT else 2)


@pytest.mark.parametrize("status", [403, 404, 500, 503, 302])
def test_a_server_that_refuses(server: Web, host: Host, status: int) -> None:
    server.status = status
    error = refused(server.url, host)
    assert error.what == f"{server.url} cannot be fetched"
    assert ("redirects in a loop" if status == 302 else str(status)) in str(error.why)
    assert drafts(host) == []
    assert len(server.requests) < 20


def test_no_server(tmp_path: Path) -> None:
    with web(b"") as gone:
        url, own = gone.url, host_of(tmp_path, **named(gone))
    assert "refused" in str(refused(url, own).why)


def test_a_spec_cannot_name_the_host_itself(server: Web, tmp_path: Path) -> None:
    error = refused(server.url, host_of(tmp_path))
    assert "name it with --allow-host" in str(error.why)
    assert server.requests == []


@pytest.mark.parametrize("scheme", ["http", "sftp"])
def test_hosts_that_the_user_did_not_allow(tmp_path: Path, scheme: str) -> None:
    own = host_of(tmp_path, allowed=("example.org",))
    assert "is not allowed" in str(refused(f"{scheme}://example.net/x", own).why)


def test_where_a_server_sends_is_judged(server: Web, tmp_path: Path) -> None:
    with web(CONTENT) as other:
        server.status, server.location = 302, other.url
        error = refused(server.url, host_of(tmp_path, **named(server)))
        assert "name it with --allow-host" in str(error.why)
        assert other.requests == []


@pytest.mark.parametrize("scheme", ["http", "sftp"])
def test_offline(server: Web, host: Host, tmp_path: Path, scheme: str) -> None:
    own = host_of(tmp_path, offline=True, **named(server))
    url = server.url.replace("http", scheme)
    assert "offline" in str(refused(url, own).why)
    assert server.requests == []
    fetch(server.url, SHA256, host.access, PLACE)
    assert fetch(url, SHA256, own.access, PLACE).read_bytes() == CONTENT


def test_without_a_length(server: Web, host: Host) -> None:
    server.lengths = False
    assert fetch(server.url, SHA256, host.access, PLACE).read_bytes() == CONTENT


def test_cut_off_without_a_length(server: Web, host: Host) -> None:
    """Nobody can tell but by the digest."""
    server.lengths, server.most = False, 5
    assert "is not what the spec expects" in refused(server.url, host).what


def test_progress_is_told_when_it_takes_long(
    server: Web, tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    own = host_of(tmp_path, listener=events.append, **named(server))
    monkeypatch.setattr(fetching, "QUIET", 3600)
    fetch(server.url, SHA256, own.access, PLACE)
    assert events == []
    monkeypatch.setattr(fetching, "QUIET", 0)
    (kept(own) / SHA256).unlink()
    fetch(server.url, SHA256, own.access, PLACE)
    told = [event for event in events if isinstance(event, Preparing)]
    assert {event.what for event in told} == {"download of d.bin"}
    fractions = [event.fraction for event in told[:-1]]
    assert fractions == sorted(fractions, key=lambda fraction: fraction or 0)
    assert fractions[-1] == 1
    assert told[-1].done


def test_two_at_once_fetch_once(server: Web, host: Host) -> None:
    server.wait = threading.Event()
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch(server.url, SHA256, host.access, PLACE))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    threads[1].join(0.3)
    assert found == []
    server.wait.set()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert len(server.requests) == 1


def test_a_fetch_that_is_stopped_ends_at_once_and_goes_on_later(server: Web, tmp_path: Path) -> None:
    server.wait = threading.Event()
    stop = Cancellation()
    own = host_of(tmp_path, stop=stop, **named(server))
    ended: list[BaseException] = []

    def work() -> None:
        try:
            fetch(server.url, SHA256, own.access, PLACE)
        except Cancelled as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not server.requests:
        thread.join(0.01)
    thread.join(0.2)  # in the middle, most likely; the outcome is the same before
    stop.cancel()
    thread.join(10)
    assert not thread.is_alive()
    assert len(ended) == 1
    server.wait.set()
    assert fetch(server.url, SHA256, host_of(tmp_path, **named(server)).access, PLACE).read_bytes() == CONTENT


def test_a_full_disk(server: Web, tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "small"
    small.mkdir()
    partial(host).parent.mkdir()
    (partial(host)).symlink_to(small)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        error = refused(server.url, host)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert error.what == "d.bin cannot be kept"
    assert drafts(host) == []


@pytest.mark.parametrize(
    ("src", "what"),
    [
        ("ftp://h/x", "cannot be fetched"),
        ("docker://h/x", "cannot be fetched"),
        ("http://", "is no URL of a file"),
        ("http://h", "is no URL of a file"),
        ("http://h:x/y", "is no URL"),
        ("http://h:99999/y", "is no URL"),
        ("file://server/x", "is no URL of a file"),
        ("file://", "is no URL of a file"),
        ("https://h/a b", "is no URL"),
        ("file:///srv/x%00y", "is no URL"),
        ("https://user:secret@h/a b", "is no URL"),
        ("ftp://user:secret@h/x", "cannot be fetched"),
        ("sftp://h/ä", "is no URL"),
        ("https://user:secret@h/x", "a password in it"),
        ("https://user@h/x", "a password in it"),
        ("sftp://user:secret@h/x", "a password in it"),
        ("../outside", "leaves the spec's directory"),
        ("/etc/passwd", "leaves the spec's directory"),
        ("missing", "does not exist"),
    ],
)
@pytest.mark.parametrize("kind", ["archive", "image"])
def test_what_src_cannot_be(make: Maker, kind: str, src: str, what: str) -> None:
    (make.home / "outside").write_bytes(b"")
    error = make.refused(f'<{kind} src="{src}" sha256="{"0" * 64}"/>', "bases")
    assert what in error.what
    assert "secret" not in error.what


def test_src_may_be_a_path(make: Maker) -> None:
    make.specs.mkdir()
    (make.specs / "d.raw").write_bytes(CONTENT)
    base = make(f'<image src="d.raw" sha256="{SHA256}"/>', "bases")
    assert base.inputs()["sha256"] == SHA256
    assert base.source.fetch(host_of(make.home)) == (make.specs / "d.raw").resolve()
    assert not (make.home / "downloads").exists(), "it is there already"


def test_a_plan_fetches_nothing(make: Maker, server: Web) -> None:
    base = make(f'<archive src="{server.url}" sha256="{SHA256}"/>', "bases")
    assert base.inputs() == {"sha256": SHA256, "facts": {}}
    assert base.title() == "archive d.bin"
    assert server.requests == []


def test_a_download_that_broke_is_garbage_after_a_while(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    drafts = repository.downloads / "partial"
    drafts.mkdir(parents=True)
    for name, days in (("a", 6), ("b", 8)):
        (drafts / name).write_bytes(b"x")
        long_ago = time.time() - days * 86400
        os.utime(drafts / name, (long_ago, long_ago))
    repository.gc()
    assert [path.name for path in drafts.iterdir()] == ["a"]
