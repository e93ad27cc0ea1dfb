"""A forward proxy for the package managers of one VM: what they fetch over HTTP is kept, and fetched once.

It listens on the host's loopback, for those who know its token, and serves GET and HEAD of http URLs: no tunnels, so
https goes its own way. What a URL had is asked for again with its validators, unless the URL names one content for
ever; and a URL that one VM asks for twice is fetched anew, because what came first was of no use to it.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import re
import secrets
import shutil
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from sfvm import __version__
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.store import BLOCK, Draft, Entry, Store
from sfvm.downloads.upstream import HOST, STALLED, Connections, Refused, Target

FOREVER = re.compile(r"/by-hash/|\.(u?deb|ddeb|rpm|apk|pkg\.tar\.(xz|zst))$")
"""Paths whose content does not change: by-hash of Debian's repositories, and packages, whose names have versions."""
PACKAGE = re.compile(r"\.(u?deb|ddeb)$")
MAX_KEPT = 4 << 30
"""A larger content is passed on only."""
MAX_QUESTION = 1 << 20
CLIENTS = 64
"""So many connections are served at once; more are closed."""
ASKED = ("Accept", "Authorization", "Cache-Control", "Cookie", "If-Range", "Range", "User-Agent")
"""What of a request goes upstream."""
TOLD = ("Accept-Ranges", "Content-Range", "Content-Type", "ETag", "Last-Modified", "Location", "Retry-After")
"""What of an answer comes back."""
PERSONAL = ("Authorization", "Cookie", "Range")
"""A request with one of these is passed on, and nothing of it is kept."""


class Proxy:
    """Runs from its making until :meth:`close`. With an *exchange*, packages that pass are unpacked into it, and
    ``POST /unpacked``, a JSON list of SHA-256 digests, is answered by lines ``DIGEST OFFSET LENGTH``.

    :raises OSError: it cannot listen
    """

    def __init__(self, store: Store, exchange: Exchange | None = None) -> None:
        self.token = secrets.token_hex(16)
        self._server = _Server(store, exchange, self.credentials)
        # It looks that often, in seconds, whether it shall end.
        serve = functools.partial(self._server.serve_forever, poll_interval=0.1)
        self._thread = threading.Thread(target=serve, name="download proxy", daemon=True)
        self._thread.start()

    @property
    def credentials(self) -> str:
        """What those who may use it say in the header Proxy-Authorization, after ``Basic`` (RFC 7617)."""
        return b64encode(f"sfvm:{self.token}".encode()).decode()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Its address as a guest writes it into ``http_proxy``."""
        return f"http://sfvm:{self.token}@{HOST}:{self.port}"

    def close(self) -> None:
        """End every connection and the thread."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # looking up a name cannot be interrupted

    def __init__(self, store: Store, exchange: Exchange | None, credentials: str) -> None:
        self.store = store
        self.exchange = exchange
        self.authorization = f"Basic {credentials}".encode()
        self.seen: set[str] = set()
        self.handlers: set[_Handler] = set()
        self._free = threading.BoundedSemaphore(CLIENTS)
        super().__init__(("127.0.0.1", 0), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def server_close(self) -> None:
        super().server_close()
        for handler in list(self.handlers):
            handler.abort()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; it is no concern of the user's terminal either."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = f"sfvm/{__version__}"
    timeout = STALLED

    def setup(self) -> None:
        super().setup()
        self.upstream = Connections()
        self.server.handlers.add(self)

    def finish(self) -> None:
        self.server.handlers.discard(self)
        self.upstream.drop()
        super().finish()

    def abort(self) -> None:
        """End it, from another thread."""
        self.upstream.abort()
        with contextlib.suppress(OSError):  # it has just ended
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *arguments: object) -> None:
        """URLs may hold secrets."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if (
            not self._allowed()
            or self.path != "/unpacked"
            or self.server.exchange is None
            or not 0 < length < MAX_QUESTION
        ):
            self._fail(404, "There is nothing here")
            return
        digests = json.loads(self.rfile.read(length))
        found = self.server.exchange.find(str(digest) for digest in digests)
        lines = "".join(f"{package.sha256} {package.offset} {package.length}\n" for package in found).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(lines)))
        self.end_headers()
        self.wfile.write(lines)

    def do_GET(self) -> None:
        self._serve()

    def do_HEAD(self) -> None:
        self._serve()

    def _serve(self) -> None:
        if not self._allowed():
            self._fail(407, "This proxy serves one virtual machine")
            return
        try:
            target = Target.parse(self.path)
            if self.command == "HEAD" or any(name in self.headers for name in PERSONAL):
                self._pass(target, self._ask(target, {}), None)
            else:
                self._cached(target)
        except Refused as refused:
            self._fail(403, str(refused))
        except (OSError, http.client.HTTPException) as error:
            self.upstream.drop()
            self.close_connection = True
            if not self.answered:
                self._fail(502, f"{type(error).__name__}: {error}".encode("ascii", "replace").decode())

    answered = False

    def _allowed(self) -> bool:
        self.answered = False
        told = self.headers.get("Proxy-Authorization") or ""
        return compare_digest(told.encode("latin-1"), self.server.authorization)

    def _fail(self, status: int, why: str) -> None:
        body = f"{why}\n".encode()
        self.close_connection = True
        self.send_response(status, " ".join(why.split())[:100])
        if status == 407:
            self.send_header("Proxy-Authenticate", "Basic")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _ask(self, target: Target, more: dict[str, str]) -> http.client.HTTPResponse:
        port = "" if target.port == 80 else f":{target.port}"
        name = f"[{target.host}]" if ":" in target.host else target.host
        headers = {"Host": f"{name}{port}", "Accept-Encoding": "identity", "Connection": "keep-alive"}
        headers |= {name: self.headers[name] for name in ASKED if name in self.headers}
        return self.upstream.request(self.command, target, headers | more)

    def _cached(self, target: Target) -> None:
        again = target.url in self.server.seen
        self.server.seen.add(target.url)
        with self.server.store.open(target.url) as known:
            if known is None or (again and FOREVER.search(target.path)):
                validators = {}
            elif FOREVER.search(target.path):
                self._send(target, *known)
                return
            else:
                validators = {"If-None-Match": known[0].etag, "If-Modified-Since": known[0].modified}
            response = self._ask(target, {name: value for name, value in validators.items() if value})
            if known is not None and response.status == 304:
                response.read()
                self._send(target, *known)
                return
        private = re.search(r"no-store|private", response.headers.get("Cache-Control", ""))
        if response.status != 200 or private:
            self._pass(target, response, None)
            return
        with self.server.store.draft() as draft:
            self._pass(target, response, draft)

    def _send(self, target: Target, entry: Entry, content: BinaryIO) -> None:
        """Answer from the cache."""
        self._unpack(target, entry.sha256)
        self.answered = True
        if entry.modified and self.headers.get("If-Modified-Since") == entry.modified:
            self.send_response(304)
            self.send_header("Last-Modified", entry.modified)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(entry.size))
        for name, value in (("Content-Type", entry.kind), ("Last-Modified", entry.modified), ("ETag", entry.etag)):
            if value:
                self.send_header(name, value)
        self.end_headers()
        shutil.copyfileobj(content, self.wfile, BLOCK)

    def _pass(self, target: Target, response: http.client.HTTPResponse, draft: Draft | None) -> None:
        """Pass the answer on as it comes, and keep it in *draft*."""
        self.answered = True
        self.send_response(response.status, response.reason)
        for name in TOLD:
            if name in response.headers:
                self.send_header(name, response.headers[name])
        endless = response.length is None and self.command != "HEAD" and response.status != 304
        chunked = endless and self.request_version >= "HTTP/1.1"
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif endless:
            self.close_connection = True
        else:
            self.send_header("Content-Length", response.headers.get("Content-Length") or str(response.length or 0))
        self.end_headers()
        last, size = b"", 0
        for block in _blocks(response):
            self._write(last, chunked)
            last, size = block, size + len(block)
            if draft is not None and not (size <= MAX_KEPT and draft.write(block)):
                draft.give_up()
                draft = None
        if draft is not None:
            # Before the client knows that this is all: then it asks for what was unpacked.
            with contextlib.suppress(OSError):
                self._keep(target, response, draft)
        self._write(last, chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, block: bytes, chunked: bool) -> None:
        if block:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)

    def _keep(self, target: Target, response: http.client.HTTPResponse, draft: Draft) -> None:
        sha256 = draft.keep()
        header = response.headers.get
        entry = Entry(sha256, draft.size, header("Last-Modified", ""), header("ETag", ""), header("Content-Type", ""))
        self.server.store.remember(target.url, entry)
        self._unpack(target, sha256)

    def _unpack(self, target: Target, sha256: str) -> None:
        if self.server.exchange is not None and PACKAGE.search(urlsplit(target.url).path):
            self.server.exchange.add(sha256, self.server.store.content(sha256))


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body; :class:`http.client.IncompleteRead` when less comes than was announced."""
    while block := response.read1(BLOCK):
        yield block
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)
