"""One connection to the proxy: requests as they come, judged by the policy of its session (see ``proxy``)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO
from urllib.parse import urlsplit

from sfvm import __version__
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.fetched import Fetched
from sfvm.downloads.policy import Refused, authority
from sfvm.downloads.session import FOREVER, Session
from sfvm.downloads.store import Entry
from sfvm.downloads.transfer import FAILURES, MAX_KEPT, Ended, Reader, Unkept
from sfvm.downloads.tunnel import Tunnel
from sfvm.downloads.upstream import PERSONAL, STALLED, Answer, Broken, Line, Target

PACKAGE = re.compile(r"\.(u?deb|ddeb)$")
MAX_QUESTION = 1 << 20
ASKED = ("Cache-Control", "User-Agent")
"""What of a request goes upstream. Accept does not: to libzypp's, openSUSE's server answers with a metalink in place of
the file, and what is kept, and locked, is what a URL has."""
TOLD = ("Content-Type", "ETag", "Last-Modified", "Location", "Retry-After", "WWW-Authenticate")
"""What of an answer comes back."""


class Server(ThreadingHTTPServer):
    """What handlers know of the proxy."""

    exchange: Exchange | None
    sessions: dict[str, Session]

    def enter(self, handler: Handler) -> None:
        """*handler* begins."""

    def leave(self, handler: Handler) -> None:
        """*handler* has ended."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = f"sfvm/{__version__}"
    timeout = STALLED
    session: Session | None = None
    answered = False

    def setup(self) -> None:
        super().setup()
        self._ends: list[Callable[[], None]] = []
        self.gone = False
        self.server.enter(self)

    def handle(self) -> None:
        with contextlib.suppress(TimeoutError):
            token = self.rfile.readline(80).strip().decode("latin-1")
            self.session = self.server.sessions.get(token)
            if self.session is not None and not self.gone:
                super().handle()

    def finish(self) -> None:
        try:
            super().finish()
        finally:
            self.server.leave(self)

    def abort(self) -> None:
        """End it, from another thread."""
        self.gone = True
        for end in list(self._ends):
            end()
        with contextlib.suppress(OSError):  # it has just ended
            self.connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _ending(self, end: Callable[[], None]) -> Iterator[None]:
        """Meanwhile, *end* is what else ends it."""
        self._ends.append(end)
        try:
            if self.gone:
                raise Broken("it was given up")
            yield
        finally:
            self._ends.remove(end)

    @property
    def _session(self) -> Session:
        assert self.session is not None  # or it would not be handled
        return self.session

    def log_message(self, format: str, *arguments: object) -> None:
        """What was fetched is in manifests; URLs may hold secrets."""

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/unpacked" or self.server.exchange is None or not 0 < length < MAX_QUESTION:
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
        self._guarded(self._get)

    def do_HEAD(self) -> None:
        self._guarded(self._head)

    def do_CONNECT(self) -> None:
        self._guarded(self._connect)

    def _guarded(self, serve: Callable[[], None]) -> None:
        self.answered = False
        try:
            serve()
        except Refused as refused:
            self._tell("refused", str(refused))
            self._fail(refused.status, str(refused))
        except (*FAILURES, ValueError) as error:
            self.close_connection = True
            why = str(error) if isinstance(error, Broken) else f"{type(error).__name__}: {error}"
            if isinstance(error, Broken) or not self.answered:  # else the client has gone away
                self._tell("failed", why)
            if not self.answered:
                self._fail(502, why.encode("ascii", "replace").decode())

    def _tell(self, what: str, why: str) -> None:
        """Keep it for the log, once: what cannot be had is often asked for again."""
        line = f"{what}: {self.path.partition('?')[0]}: {why}"
        if not self.gone and line not in self._session.told:
            self._session.told.append(line)

    def _fail(self, status: int, why: str) -> None:
        body = f"{why}\n".encode()
        self.close_connection = True
        self.send_response(status, " ".join(why.split())[:200])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self, *names: str) -> dict[str, str]:
        return {name: self.headers[name] for name in names if name in self.headers}

    # CONNECT

    def _connect(self) -> None:
        session, begun = self._session, time.monotonic()
        host, port = _place(self.path)
        session.policy.check(host, port, tunnel=True)
        place = authority(host, port)
        if session.policy.offline or session.policy.locked is not None:
            how = "offline" if session.policy.offline else "locked"
            raise Refused(f"{how}: what comes through a tunnel to {place} cannot be known")
        with session.access.transfers.pool.tunnel(host, port, session.policy) as upstream:
            tunnel = Tunnel(self.rfile, self.connection, upstream)
            with self._ending(tunnel.abort):
                self.answered = True
                self.send_response(200, "Connection established")
                self.end_headers()
                tunnel.run()
            self.close_connection = True
        seconds = round(time.monotonic() - begun, 3)
        session.access.ledger.add(Fetched(f"https://{place}", "", tunnel.received, seconds, False))

    # HEAD

    def _head(self) -> None:
        session = self._session
        target = Target.parse(self.path, session.policy)
        expected = session.access.expected(target)
        with session.access.stored(target, expected) as known:
            if known is not None and (expected or session.policy.offline or FOREVER.search(target.path)):
                self._send(target, *known)
                return
        self._pass(target, expected)

    # GET

    def _get(self) -> None:
        session = self._session
        access, policy = session.access, session.policy
        target = Target.parse(self.path, policy)
        expected = access.expected(target)
        personal = self._asked(*PERSONAL)
        if (personal and not expected) or target.url in session.unkept:  # nothing of it is kept
            self._pass(target, expected)
            return
        again, lasting = target.url in session.seen, FOREVER.search(target.path) is not None
        session.seen.add(target.url)
        while not self._answer(target, expected, personal, lasting=lasting, again=again):
            pass

    def _answer(self, target: Target, expected: str, personal: dict[str, str], *, lasting: bool, again: bool) -> bool:
        """Answer from the store or from upstream. False when a transfer ended between the looks at the one and at the
        other: then it may be in the store by now, and there is nobody to follow."""
        session = self._session
        access, policy = session.access, session.policy
        ended = access.transfers.ended
        validators: dict[str, str] = {}
        with access.stored(target, expected) as known:
            if known is not None:
                if expected or policy.offline or (lasting and not again):
                    self._send(target, *known)
                    return True
                if not lasting:
                    validators = {"If-None-Match": known[0].etag, "If-Modified-Since": known[0].modified}
        headers = self._asked(*ASKED) | personal | {name: value for name, value in validators.items() if value}
        begun = time.monotonic()
        try:
            with (
                access.transfers.follow(target, policy, headers, expected, ended) as reader,
                self._ending(reader.cancel),
            ):
                head = reader.head()
                if policy.locked is not None and head.status not in (200, 401):  # to 401 a client may know an answer
                    raise Refused(
                        f"the lock has it, the download cache does not, and the server says {head.status} "
                        f"{head.reason}: make a new lock (sfvm update)"
                    )
                if head.status != 304:
                    self._follow(target, reader, begun)
                    return True
                reader.finish()
        except Ended:
            return False
        except Unkept as error:
            session.unkept.add(target.url)
            if self.answered:
                raise Broken(str(error)) from error
            self._pass(target, expected)
            return True
        with access.stored(target, expected) as known:
            if known is None:
                raise Broken("what the download cache had is gone")
            self._send(target, *known)
        return True

    def _send(self, target: Target, entry: Entry, content: BinaryIO) -> None:
        """Answer from the store."""
        begun = time.monotonic()
        self._unpack(target, entry.sha256)
        if entry.modified and self.headers.get("If-Modified-Since") == entry.modified:
            self.answered = True
            self._session.access.record(target, entry, begun, cached=True)
            self.send_response(304)
            self.send_header("Last-Modified", entry.modified)
            self.end_headers()
            return
        told = {"Content-Type": entry.kind, "Last-Modified": entry.modified, "ETag": entry.etag}
        start, end = self._start(200, "", {name: value for name, value in told.items() if value}, entry.size)
        if self.command != "HEAD":
            self._session.access.record(target, entry, begun, cached=True)
            self._copy(content.fileno(), start, entry.size if end is None else end)

    def _follow(self, target: Target, reader: Reader, begun: float) -> None:
        """Pass on what comes, as it is written to the store's draft."""
        head = reader.head()
        told = {name: head.headers[name] for name in TOLD if name in head.headers}
        offset, end = self._start(head.status, head.reason, told, head.length)
        chunked = head.length is None and not self.close_connection
        while True:
            # Who has the part that was asked for waits for the end of the whole: the store's, too.
            there, done = reader.wait(offset if end is None or offset < end else MAX_KEPT)
            if done and (entry := reader.finish()) is not None:
                if reader.transfer.kept:
                    # Before the client knows that this is all: then it asks for what was unpacked.
                    self._unpack(target, entry.sha256)
                self._session.access.record(target, entry, begun, cached=False)
            until = there if end is None else min(there, end)
            if until > offset:
                if chunked:
                    self.wfile.write(b"%x\r\n" % (until - offset))
                self._copy(reader.transfer.file, offset, until)
                if chunked:
                    self.wfile.write(b"\r\n")
                offset = until
            if done:
                break
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _start(self, status: int, reason: str, told: dict[str, str], length: int | None) -> tuple[int, int | None]:
        """Send what stands before the body; return from where to where the client wants it (None: its end)."""
        self.answered = True
        start, end = 0, length
        wanted = re.fullmatch(r"bytes=(\d{1,18})-(\d{0,18})", self.headers.get("Range", ""))
        if wanted and status == 200 and length and self._unchanged(told):
            first, last = int(wanted[1]), min(int(wanted[2] or length), length - 1)
            if first <= last:
                status, reason, start, end = 206, "Partial Content", first, last + 1
                told = told | {"Content-Range": f"bytes {first}-{last}/{length}"}
        self.send_response(status, reason or None)
        for name, value in told.items():
            self.send_header(name, value)
        if end is not None:
            self.send_header("Content-Length", str(end - start))
            self.send_header("Accept-Ranges", "bytes")
        elif self.request_version >= "HTTP/1.1":
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end_headers()
        return start, end

    def _unchanged(self, told: dict[str, str]) -> bool:
        """Whether the client has the beginning of just this content, as far as it says."""
        condition = self.headers.get("If-Range")
        return condition is None or condition in (told.get("ETag"), told.get("Last-Modified"))

    def _copy(self, file: int, start: int, end: int) -> None:
        """Send these bytes of *file*, without bringing them into this process."""
        self.wfile.flush()
        writable = select.poll()
        writable.register(self.connection, select.POLLOUT)
        while start < end:
            try:
                sent = os.sendfile(self.connection.fileno(), file, start, end - start)
            except BlockingIOError:  # a socket with a timeout does not block
                if not writable.poll(STALLED * 1000):
                    raise TimeoutError from None
                continue
            if not sent:
                raise Broken("the download cache was truncated")
            start += sent

    # What is not kept

    def _pass(self, target: Target, expected: str) -> None:
        """Pass the request on, and the answer as it comes. The last block is held back until its digest is right."""
        session, begun = self._session, time.monotonic()
        pool = session.access.transfers.pool
        headers = self._asked(*ASKED, *PERSONAL, "Range", "If-Range")
        line = Line()
        with self._ending(line.cut):
            answer = pool.ask(self.command, target, headers, session.policy, line)
            self.answered = True
            self.send_response(answer.status, answer.reason)
            for name in (*TOLD, "Content-Range", "Accept-Ranges"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            length = answer.headers.get("Content-Length") if self.command == "HEAD" else answer.length
            chunked = length is None and self.command != "HEAD" and self.request_version >= "HTTP/1.1"
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            elif length is None:
                self.close_connection = True
            else:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self._body(target, answer, expected, begun, chunked=chunked)

    def _body(self, target: Target, answer: Answer, expected: str, begun: float, *, chunked: bool) -> None:
        digest, size, last = hashlib.sha256(), 0, b""
        for block in answer.blocks():
            self._write(last, chunked)
            last, size = block, size + len(block)
            digest.update(block)
        entry = Entry(digest.hexdigest(), size, "", "", "")
        if answer.status == 200 and self.command != "HEAD":
            if expected not in ("", entry.sha256):
                raise Broken("it has another content than it should")
            self._session.access.record(target, entry, begun, cached=False)
        self._write(last, chunked)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _write(self, block: bytes, chunked: bool) -> None:
        if block:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if chunked else block)

    def _unpack(self, target: Target, sha256: str) -> None:
        if self.server.exchange is not None and PACKAGE.search(urlsplit(target.url).path):
            self.server.exchange.add(sha256, self._session.access.store.content(sha256))


def _place(text: str) -> tuple[str, int]:
    """Host and port of *text*, ``HOST:PORT``.

    :raises Refused: it is not that
    """
    with contextlib.suppress(ValueError):
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.port and parts.username is None and not parts.path:
            return parts.hostname, parts.port
    raise Refused("a tunnel is to HOST:PORT")
