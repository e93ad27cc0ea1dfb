"""Bundles to publish, and an Amazon on the loopback, which can be made to fail."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.format import expand, request
from sfvm.bundle.stage import Stage

FACTS = {"architecture": "x86_64", "distribution": "debian", "release": "bookworm"}
BLOCK = 512 << 10
DISK = {0: b"boot", 3: os.urandom(BLOCK), 7: b"x" * BLOCK, 100: b"y" * 10, 131: b"the last one"}
"""What is on the disk, by the index of the block; all else is zero."""
SIZE = 131 * BLOCK + 4096


def made(format: str, directory: Path, disk: Path) -> Path:
    """The bundle of *disk* in *format*, as the bundler leaves it."""
    recipe = expand(request(format, {"boot": "none"}), "web", FACTS)
    directory.mkdir()
    facts = {"name": "web", "key": "0123456789ab" + "0" * 52, "settings": dict(recipe.settings), "facts": FACTS,
             "packages": [], "disk": disk.stat().st_size, "root_uuid": "", "arguments": "", "kernel": ""}  # fmt: skip
    stage = Stage(directory, Disk(disk), None, lambda fraction: None, facts)
    for output in recipe.outputs:
        output.make(stage)
    artifacts = {name: {"sha256": hashlib.sha256((directory / name).read_bytes()).hexdigest()} for name in stage.made}
    (directory / "manifest.json").write_text(json.dumps({"node": "web", "artifacts": artifacts}))
    return directory


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        for index, data in DISK.items():
            file.seek(index * BLOCK)
            file.write(data)
        file.truncate(SIZE)
    return path


Answer = Callable[[str, str], int | None]


class Proxy:
    """What stands between a client and the server at *port*: *refuse* gets method and path of each request, and returns
    the status that the client gets instead of an answer, or None. *seen* are the requests."""

    def __init__(self, port: int) -> None:
        self.refuse: Answer = lambda method, path: None
        self.seen: list[tuple[str, str]] = []
        self.headers: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                outer.seen.append((self.command, self.path))
                outer.headers.append(str(self.headers))
                status = outer.refuse(self.command, self.path)
                if status is None:
                    server = http.client.HTTPConnection("127.0.0.1", port)
                    server.request(self.command, self.path, body, dict(self.headers))
                    answer = server.getresponse()
                    data, status, headers = answer.read(), answer.status, answer.getheaders()
                    server.close()
                else:
                    data, headers = b"{}", []
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = forward

            def log_message(self, format: str, *words: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever)

    def puts(self) -> list[int]:
        """The indexes of the blocks that were sent."""
        return [int(path.rpartition("/")[2].partition("?")[0]) for method, path in self.seen if method == "PUT"]


@pytest.fixture(scope="session")
def moto() -> Iterator[int]:
    """The port of moto's server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield int(server.get_host_and_port()[1])
    finally:
        server.stop()


@pytest.fixture
def amazon(moto: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """An Amazon without anything in it, and the credentials of a user, who has no others."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    connection = http.client.HTTPConnection("127.0.0.1", moto)
    connection.request("POST", "/moto-api/reset")
    assert connection.getresponse().status == 200
    connection.close()
    proxy = Proxy(moto)
    proxy.thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.thread.join()
        proxy.server.server_close()
