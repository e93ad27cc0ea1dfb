"""Downloads, from a server of the test's own."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sfvm.downloads import transfer
from sfvm.downloads.policy import Policy
from sfvm.errors import SpecError
from tests.verbs import Directory, Maker

CONTENT = b"x" * 3_000_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/tool")
            self.end_headers()
        elif self.path == "/local":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif self.path == "/babble":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
        elif self.path in ("/tool", "/cut", "/private"):
            self.send_response(200)
            if self.path == "/private":
                self.send_header("Cache-Control", "private, no-store")
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: 1000 if self.path == "/cut" else None])
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Not in the test's output."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def named(guest: Directory, server: str) -> None:
    """By the user, as the place of a mirror."""
    guest.policy = Policy(named=frozenset({server.removeprefix("http://"), "127.0.0.1:1"}))


def element(url: str, sha256: str = SHA, more: str = "") -> str:
    return f'<download url="{url}" sha256="{sha256}" to="/usr/local/bin/tool" {more}/>'


@pytest.mark.parametrize("path", ["/tool", "/moved"])
def test_download(make: Maker, guest: Directory, server: str, path: str) -> None:
    make(element(server + path, SHA.upper(), 'mode="0755" owner="a:b"')).run(guest)
    assert guest.read("/usr/local/bin/tool") == CONTENT
    assert guest.at("/usr/local/bin/tool").stat().st_mode & 0o7777 == 0o755
    assert guest.owners["/usr/local/bin/tool"] == "a:b"


def test_what_caches_must_not_keep_or_is_large(
    make: Maker, guest: Directory, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The spec wants it all the same."""
    monkeypatch.setattr(transfer, "MAX_KEPT", 1000)
    make(element(f"{server}/private")).run(guest)
    assert guest.read("/usr/local/bin/tool") == CONTENT


def test_another_content_is_refused(make: Maker, guest: Directory, server: str) -> None:
    with pytest.raises(SpecError, match="not what the spec expects") as caught:
        make(element(f"{server}/tool", "0" * 64)).run(guest)
    assert SHA in str(caught.value.why)
    assert not guest.exists("/usr/local/bin/tool")


@pytest.mark.parametrize("path", ["/missing", "/babble", "/cut", "/local"])
def test_what_cannot_be_had(make: Maker, guest: Directory, server: str, path: str) -> None:
    with pytest.raises(SpecError, match="cannot be fetched") as caught:
        make(element(server + path)).run(guest)
    assert caught.value.why
    assert caught.value.hint
    assert not guest.exists("/usr/local/bin/tool")


def test_no_server(make: Maker, guest: Directory) -> None:
    with pytest.raises(SpecError, match="cannot be fetched"):
        make(element("http://127.0.0.1:1/")).run(guest)


@pytest.mark.parametrize("policy", [Policy(), Policy(allowed=("example.org",)), Policy(offline=True)])
def test_what_the_policy_forbids(make: Maker, guest: Directory, server: str, policy: Policy) -> None:
    """Until it is there: the digest says that it is the right one."""
    named, guest.policy = guest.policy, policy
    with pytest.raises(SpecError, match="cannot be fetched"):
        make(element(f"{server}/tool")).run(guest)
    if policy.offline:
        guest.policy = named
        make(element(f"{server}/tool")).run(guest)
        guest.policy = Policy(named=named.named, offline=True)
        make(element(f"{server}/tool")).run(guest)
        assert guest.read("/usr/local/bin/tool") == CONTENT


@pytest.mark.parametrize("url", ["ftp://x/y", "file:///etc/passwd", "/etc/passwd", "HTTPX://a"])
def test_only_http(make: Maker, url: str) -> None:
    assert "cannot be fetched" in make.refused(element(url)).what


@pytest.mark.parametrize(
    "url",
    [
        "https://", "https://h", "http:///nowhere", "http://h:port/", "http://[::1/", "http://h/ä", "http://a b/x",
        "http://h/%00", "https://me:hunter2@h/x", "https://me:hunter2@h/a b", "ftp://me:hunter2@h/x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("xml", [element("{}"), f'<unpack src="{{}}" sha256="{SHA}" to="/x"/>'])
def test_what_is_no_url(make: Maker, xml: str, url: str) -> None:
    """Told by a plan, not by a build, and without the password."""
    assert "hunter2" not in str(make.refused(xml.format(url)).what)


def test_what_unpack_gets_from_a_url_has_a_digest(make: Maker) -> None:
    assert make.refused('<unpack src="https://h/x.tar" to="/x"/>').what == "unpack has no sha256"


def test_where_it_comes_from_does_not_count(make: Maker) -> None:
    step = make(element("https://a.invalid/"))
    assert step.inputs() == make(element("http://b.invalid/", SHA.upper())).inputs()
    assert step.inputs() != make(element("https://a.invalid/", more='mode="0755"')).inputs()
    assert step.title() == "download https://a.invalid/"
