"""What the download proxy costs: content from the cache, through a process of its own, as fast as it goes."""

from __future__ import annotations

import http.client
import random
import socket
import statistics
import subprocess
import sys
import time

from sfvm.downloads.store import BLOCK, Entry, Store
from tests.bench.measure import Bench, Result

SIZE = 1000
"""Of the content, in MB."""
URLS = [f"http://mirror.invalid/{number}.rpm" for number in range(4)]
"""Of the same content; what a client asks for twice is not taken from the cache."""
SERVE = """
import resource, sys
from pathlib import Path
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.proxy import Proxy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
proxy = Proxy()
with proxy.session(Access(Transfers(Store(Path(sys.argv[1]))), Policy())) as session:
    print(proxy.port, session.token, flush=True)
    sys.stdin.read()
proxy.close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def proxy(bench: Bench) -> list[Result]:
    """The first reading compares the content with its digest, too; the others are what is told."""
    store = Store(bench.repository / "downloads")
    block = random.Random(1).randbytes(BLOCK)
    with store.draft() as draft:
        assert draft is not None
        for _ in range(SIZE * 1_000_000 // BLOCK):
            draft.write(block)
        size, sha256 = draft.size, draft.keep()
    for url in URLS:
        store.remember(url, Entry(sha256, size, "", "", ""))
    words = [sys.executable, "-c", SERVE, str(bench.repository / "downloads")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdin is not None and served.stdout is not None
        port, token = served.stdout.readline().split()
        first, *others = (_read(int(port), token, url, size) for url in URLS)
        served.stdin.close()
        memory = int(served.stdout.read()) / 1024
    seconds = statistics.median(others)
    note = f"{size / seconds / 1e6:.0f} MB/s; the first time, compared with its digest, {size / first / 1e6:.0f} MB/s"
    return [
        Result("proxy: 1 GB from the cache", seconds, None, 5, note=note),
        Result("proxy: memory", memory, None, 60, "MiB"),
    ]


def _read(port: int, token: str, url: str, size: int) -> float:
    begun = time.monotonic()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.sock = socket.create_connection(("127.0.0.1", port))
    connection.sock.sendall(f"{token}\n".encode())
    connection.request("GET", url)
    response = connection.getresponse()
    got, buffer = 0, bytearray(BLOCK)
    while count := response.readinto(buffer):
        got += count
    connection.close()
    assert got == size
    return time.monotonic() - begun
