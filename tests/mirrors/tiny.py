"""What the tiny stand-ins share: a throw-away key, a server on loopback, and programs of this host as contents."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.peers.tools import PLACES, tool

SYSTEMCTL = """\
#!/bin/sh
# Enough of systemctl(1) for a guest that never runs.
verb=$1
shift
for unit; do
    case $verb in
    enable) mkdir -p /etc/systemd/system/multi-user.target.wants
        ln -sf "/usr/lib/systemd/system/$unit" "/etc/systemd/system/multi-user.target.wants/$unit" ;;
    disable) rm -f "/etc/systemd/system/multi-user.target.wants/$unit" ;;
    mask) ln -sf /dev/null "/etc/systemd/system/$unit" ;;
    esac
done
"""


@dataclass(frozen=True)
class Signer:
    """A key in the GnuPG home *home*."""

    home: Path
    fingerprint: str

    def gpg(self, *words: str) -> bytes:
        command = [
            tool("gpg"),
            "--homedir",
            str(self.home),
            "--batch",
            "--quiet",
            "--yes",
            "--pinentry-mode",
            "loopback",
        ]
        return subprocess.run([*command, *words], check=True, capture_output=True).stdout

    def sign(self, path: Path, suffix: str = ".sig", *, armor: bool = False) -> Path:
        """A detached signature beside *path*."""
        signature = path.with_name(path.name + suffix)
        more = ["--armor"] if armor else []
        self.gpg(*more, "--local-user", self.fingerprint, "--output", str(signature), "--detach-sign", str(path))
        return signature

    def certify(self, other: Signer) -> None:
        """Vouch for the key of *other*, who gets the signature."""
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "key"
            self.gpg("--import", str(other.public(path)))
            self.gpg("--local-user", self.fingerprint, "--quick-sign-key", other.fingerprint)
            path.write_bytes(self.gpg("--export", other.fingerprint))
            other.gpg("--import", str(path))

    def public(self, path: Path) -> Path:
        """Write the public key to *path*, ASCII-armoured."""
        path.write_bytes(self.gpg("--armor", "--export", self.fingerprint))
        return path


@contextlib.contextmanager
def signer(name: str = "throw-away") -> Iterator[Signer]:
    """A new key; no agent and no secret outlives it."""
    with tempfile.TemporaryDirectory(prefix="sfvm-k-", dir="/tmp") as home:  # short, for the agent's socket
        made = Signer(Path(home), "")
        try:
            made.gpg(
                "--passphrase", "", "--quick-generate-key", f"{name} <{name}@localhost>", "rsa2048", "sign", "never"
            )
            listed = made.gpg("--list-keys", "--with-colons").decode()
            (found,) = re.findall(r"^fpr:+([0-9A-F]{40}):", listed, flags=re.MULTILINE)
            yield Signer(made.home, found)
        finally:
            subprocess.run([tool("gpgconf"), "--homedir", home, "--kill", "all"], check=False)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[str]:
    """Serve *directory* on loopback; its URL, which guests reach where the user has named it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def text_file(path: Path, text: str, mode: int = 0o644) -> None:
    """Write *text*, and what directories it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def programs(root: Path, names: Iterable[str], beside: Path | None = None) -> None:
    """Copy programs and libraries of this host, with all that they are linked to, to the same places below *root*,
    which has a merged /usr; but for what is *beside* it."""
    pending = [shutil.which(name, path=PLACES) or name for name in names]
    seen: set[str] = set()
    while pending:
        path = pending.pop()
        if path in seen:
            continue
        seen.add(path)
        place = path if path.startswith("/usr/") else f"/usr{path}"
        target = root / place.lstrip("/")
        if beside is None or not (beside / place.lstrip("/")).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(os.path.realpath(path), target)
        linked = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
        pending += re.findall(r"(/\S+) \(0x", linked)


def busybox(root: Path) -> None:
    """A static busybox as what there is in /usr/bin, where nothing else is."""
    directory = root / "usr" / "bin"
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy2(tool("busybox"), directory / "busybox")
    applets = subprocess.run([directory / "busybox", "--list"], capture_output=True, text=True, check=True).stdout
    for name in applets.split():
        if not (directory / name).exists() and name not in ("rpm", "dpkg"):
            (directory / name).symlink_to("busybox")
