"""A small mirror for apt, which does what mirrors should not."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.mirrors.apt import control, package, suite
from tests.mirrors.tiny import Signer, signer

LONG_AGO = ("--faked-system-time", "20200101T000000!")
BIG = 150 << 20
FAULTS = (404, 500, "short", "other")


@dataclass
class Mirror:
    """A mirror that is served. *faults* are what it does for paths that match: one of FAULTS: a status, or a content
    that is too short or another.
    *keys* has ``good.asc``, which signs, and ``expired.asc``, which was good for a day in 2020."""

    root: Path
    keys: Path
    url: str = ""
    faults: dict[str, int | str] = field(default_factory=dict)

    def repository(self, name: str, key: str = "good.asc") -> str:
        """The step that adds the suite *name*."""
        return f'<repository name="{name}" url="{self.url}" suites="{name}" components="main" keys="{key}"/>'


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, mirror: Mirror, *arguments: object) -> None:
        self.mirror = mirror
        super().__init__(*arguments, directory=str(mirror.root))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        fault = next((fault for path, fault in self.mirror.faults.items() if re.search(path, self.path)), None)
        if isinstance(fault, int):
            self.send_error(fault)
        elif fault is None:
            super().do_GET()
        else:
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "short" else content[::-1])
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Not in the test's output."""


@contextlib.contextmanager
def small(work: Path) -> Iterator[Mirror]:
    """Make and serve below the empty directory *work*: suite ``one`` with the packages some, other (of the task set),
    big, for which a small disk has no room, and one for each fault; ``two`` with newer ones; ``old`` signed in 2020."""
    made = Mirror(work / "mirror", work / "keys")
    made.keys.mkdir(parents=True)
    with signer("good") as good, signer("old") as other:
        good.public(made.keys / "good.asc")
        words = ("--passphrase", "", "--quick-generate-key", "expired <expired@localhost>", "rsa2048", "sign", "1d")
        other.gpg(*LONG_AGO, *words)
        listed = other.gpg("--list-keys", "--with-colons", "expired@localhost").decode()
        expired = Signer(other.home, re.findall(r"^fpr:+([0-9A-F]{40}):", listed, flags=re.MULTILINE)[0])
        expired.public(made.keys / "expired.asc")
        for name, version in (("one", "1"), ("two", "2")):
            pool = made.root / "pool" / name
            pool.mkdir(parents=True)
            texts = [control("some", version), control("other", version, Task="set")]
            if name == "one":
                texts += [control("big"), *(control(f"bad-{fault}") for fault in FAULTS)]
            for text in texts:
                title = text.split()[1]
                content = {f"usr/share/{title}": bytes(BIG) if title == "big" else version.encode()}
                package(work / name, text, content).rename(pool / f"{title}_{version}_all.deb")
            suite(made.root, name, {"main": pool}, good)
        suite(made.root, "old", {"main": made.root / "pool" / "one"}, expired, *LONG_AGO)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, made)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()
