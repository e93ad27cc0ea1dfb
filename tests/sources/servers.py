"""Servers on loopback that have one content, and what they do wrong."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import paramiko


@dataclass
class Web:
    """An HTTP server; *requests* are the ranges that were asked for ("": all). Of an answer, only *most* bytes come
    before the connection is closed; *status* is told instead of the content (a redirection leads to *location*, or in a
    loop); *ranges* and *lengths* say whether it knows them, ranges are no longer than *part*; *wait* holds an answer
    back in its middle."""

    content: bytes
    port: int = 0
    requests: list[str] = field(default_factory=list)
    most: int | None = None
    status: int = 200
    ranges: bool = True
    lengths: bool = True
    part: int | None = None
    wait: threading.Event | None = None
    location: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/images/d.bin"


@contextlib.contextmanager
def web(content: bytes) -> Iterator[Web]:
    """A running server."""
    made = Web(content)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            made.requests.append(asked)
            if made.status in (301, 302):
                self.send_response(made.status)
                self.send_header("Location", made.location or self.path)
                self.end_headers()
                return
            if made.status != 200:
                self.send_error(made.status)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and made.ranges else 0
            if start >= len(made.content) and start:
                self.send_error(416)
                return
            end = min(start + made.part, len(made.content)) if start and made.part else len(made.content)
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(made.content)}")
            if made.lengths:
                self.send_header("Content-Length", str(end - start))
            self.end_headers()
            part = made.content[start : end if made.most is None else min(start + made.most, end)]
            with contextlib.suppress(OSError):
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                if made.wait is not None:
                    made.wait.wait(60)
                self.wfile.write(part[len(part) // 2 :])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=[0.05])
    thread.start()
    try:
        yield made
    finally:
        if made.wait is not None:
            made.wait.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Files(paramiko.SFTPServerInterface):
    """A directory, to be read."""

    root: Path
    made: Sftp

    def open(self, path: str, flags: int, attr: object) -> paramiko.SFTPHandle | int:
        place = self.root / path.lstrip("/")
        if not place.is_file():
            return paramiko.SFTP_NO_SUCH_FILE
        handle = paramiko.SFTPHandle(flags)
        handle.filename = str(place)  # type: ignore[attr-defined]
        handle.readfile = place.open("rb")  # type: ignore[attr-defined]
        handle.read = functools.partial(self._read, handle)  # type: ignore[method-assign]
        handle.stat = lambda: paramiko.SFTPAttributes.from_stat(place.stat())  # type: ignore[method-assign]
        return handle

    def _read(self, handle: paramiko.SFTPHandle, offset: int, length: int) -> bytes | int:
        if self.made.wait is not None and offset >= 1 << 20:
            self.made.wait.wait(60)
        return paramiko.SFTPHandle.read(handle, offset, length)

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        place = self.root / path.lstrip("/")
        return paramiko.SFTPAttributes.from_stat(place.stat()) if place.exists() else paramiko.SFTP_NO_SUCH_FILE


class _Door(paramiko.ServerInterface):
    def __init__(self, key: paramiko.PKey) -> None:
        self.key = key

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        right = username == "alice" and key == self.key
        return paramiko.AUTH_SUCCESSFUL if right else paramiko.AUTH_FAILED


@dataclass
class Sftp:
    """An SFTP server for alice, whose key is *key*; *host* is its own. *wait* holds back what follows the first MiB of
    a file."""

    port: int
    host: paramiko.PKey
    key: paramiko.PKey
    sessions: int = 0
    wait: threading.Event | None = None

    @property
    def known(self) -> str:
        """Its line in known_hosts."""
        return f"[127.0.0.1]:{self.port} {self.host.get_name()} {self.host.get_base64()}\n"


@contextlib.contextmanager
def sftp(directory: Path, host: paramiko.PKey, key: paramiko.PKey) -> Iterator[Sftp]:
    """A running server of *directory*."""
    listener = socket.create_server(("127.0.0.1", 0))
    made = Sftp(listener.getsockname()[1], host, key)
    transports: list[paramiko.Transport] = []
    files = type("Files", (_Files,), {"root": directory, "made": made})

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            made.sessions += 1
            transport = paramiko.Transport(connection)
            transports.append(transport)
            transport.add_server_key(host)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, files)
            with contextlib.suppress(paramiko.SSHException, EOFError):  # the client went away at once
                transport.start_server(server=_Door(key), event=threading.Event())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield made
    finally:
        if made.wait is not None:
            made.wait.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for transport in transports:
            transport.close()
