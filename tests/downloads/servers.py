"""A web server of the test's own, and a client of the proxy's."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from sfvm.downloads.access import Access
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.fetched import Fetched
from sfvm.downloads.policy import Policy
from sfvm.downloads.proxy import Proxy
from sfvm.downloads.session import Session
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers


@dataclass
class Mirror:
    """*answers* are status, headers and body by path; *asked* is what was asked for. Of a path in *cut* each answer
    breaks off after so many bytes of the body; one in *gates* waits for its event in the middle of it. *lengths* is
    whether it says how long answers are; *metalinks* is what who accepts that gets, by path; of one in
    *parts* there are at most so many bytes for whoever asks for a range. With a *password*, that is what Authorization
    must be."""

    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    cut: dict[str, int] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)
    lengths: bool = True
    parts: dict[str, int] = field(default_factory=dict)
    metalinks: dict[str, bytes] = field(default_factory=dict)
    password: str | None = None
    port: int = 0
    scheme: str = "http"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.place}{path}"

    def serve(self, path: str, body: bytes, status: int = 200, **headers: str) -> str:
        self.answers[path] = (status, {name.replace("_", "-"): value for name, value in headers.items()}, body)
        return self.url(path)

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


def _handler(known: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known.asked.append((self.path, dict(self.headers)))
            status, headers, body = known.answers.get(self.path, (404, {}, b"not here"))
            headers = dict(headers)
            if known.password not in (None, self.headers.get("Authorization")):
                status, headers, body = 401, {"WWW-Authenticate": "Basic"}, b"who are you?"
            if "metalink" in self.headers.get("Accept", ""):
                body = known.metalinks.get(self.path, body)
            same = {
                self.headers.get("If-None-Match"), self.headers.get("If-Modified-Since")
            } & {headers.get("ETag"), headers.get("Last-Modified")} - {None}  # fmt: skip
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if same:
                status, body = 304, b""
            elif wanted and self.headers.get("If-Range") in (headers.get("ETag"), headers.get("Last-Modified")):
                start, end = int(wanted[1]), min(int(wanted[1]) + known.parts.get(self.path, len(body)), len(body))
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(body)}"
                status, body = 206, body[start:end]
            self.send_response(status)
            chunked = "Transfer-Encoding" in headers and status != 206
            if not chunked and known.lengths:
                headers = {"Content-Length": str(len(body))} | headers
            for name, value in headers.items():
                if chunked or name != "Transfer-Encoding":
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self._write(body[: known.cut.get(self.path)], chunked)
            self.close_connection = self.path in known.cut

        do_HEAD = do_GET

        def _write(self, body: bytes, chunked: bool) -> None:
            if (gate := known.gates.get(self.path)) is not None:
                self.wfile.write(body[: len(body) // 2])
                assert gate.wait(30)
                body = body[len(body) // 2 :]
            if chunked:
                body = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
                body += b"" if self.path in known.cut else b"0\r\n\r\n"
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Not in the test's output."""

    return Handler


@contextlib.contextmanager
def serving(certificate: Path | None = None) -> Iterator[Mirror]:
    """A mirror that runs meanwhile, with the *certificate* and key in that file over TLS."""
    known = Mirror(scheme="http" if certificate is None else "https")
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(known)) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients go away in the middle
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        known.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield known
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Client:
    """A command whose session is *session*."""

    proxy: Proxy
    session: Session

    def connect(self) -> socket.socket:
        """A connection to the proxy, as the relay of the command makes it."""
        connection = socket.create_connection(("127.0.0.1", self.proxy.port), 30)
        connection.sendall(f"{self.session.token}\n".encode())
        return connection

    def open(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.port, timeout=30)
        connection.sock = self.connect()
        return connection

    def request(
        self, method: str, url: str, body: bytes = b"", **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        with contextlib.closing(self.open()) as connection:
            told = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, url, body or None, told)
            response = connection.getresponse()
            return response, response.read()

    def get(self, url: str, **headers: str) -> bytes:
        response, content = self.request("GET", url, **headers)
        assert response.status == 200, content
        return content

    def status(self, url: str, method: str = "GET", **headers: str) -> int:
        return self.request(method, url, **headers)[0].status

    def fetched(self) -> tuple[Fetched, ...]:
        return self.session.access.ledger.take()


@dataclass
class Network:
    """Makes what asks the proxy: *client* is a command with a policy, and an exchange where one is given."""

    store: Store
    named: Callable[[], frozenset[str]]
    close: contextlib.ExitStack

    def client(
        self, policy: Policy | None = None, hosts: tuple[str, ...] | None = None, exchange: Exchange | None = None
    ) -> Client:
        """Of a build of its own, which shares nothing with others but the store."""
        transfers = Transfers(self.store)
        self.close.callback(transfers.close)
        return self.another(Access(transfers, policy or Policy(named=self.named())), hosts, exchange)

    def another(self, access: Access, hosts: tuple[str, ...] | None = None, exchange: Exchange | None = None) -> Client:
        """Of the same build as others with *access*."""
        proxy = Proxy()
        proxy.unpack(exchange)
        self.close.callback(proxy.close)
        return Client(proxy, self.close.enter_context(proxy.session(access, hosts)))
