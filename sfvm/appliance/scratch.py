"""Private temporary directories of running appliances. One whose process was killed with ``kill -9`` is removed by the
next launch: its lock is free."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PREFIX = "sfvm-vm-"
LONGEST = 60
"""A socket's path may have 107 characters (unix(7)); so many may be those of the directory for temporary files."""
YOUNG = 60.0
"""Seconds: a directory whose lock has no mark may still be about to get one."""
MARK = b"\n"
"""What a lock has once it is held: one that is free then is a dead process's."""
SOCKET = "guestfsd.sock"
LIBGUESTFS = re.compile(r"(/[^\s,='\"<>]+/libguestfs\w{6})/guestfsd\.sock")


class Scratch:
    """A directory for one appliance; :meth:`close` removes it."""

    def __init__(self) -> None:
        home = _home()
        for stale in _stale(home):
            with contextlib.suppress(OSError):  # another process may be removing it too
                for sockets in (stale / "sockets").read_text(encoding="utf-8").splitlines():
                    shutil.rmtree(sockets, ignore_errors=True)
            shutil.rmtree(stale, ignore_errors=True)
        # Where libguestfs puts them: guestfs_get_sockdir(3).
        for dead in dead_sockets(Path("/tmp" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "/tmp"))):
            shutil.rmtree(dead, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
        self._lock = _lock(self.path)
        if self._lock is not None:
            os.write(self._lock, MARK)

    def note(self, description: str) -> None:
        """Remember libguestfs's own socket directory, found in a QEMU command line or domain *description*."""
        found = LIBGUESTFS.search(description)
        if found:
            (self.path / "sockets").write_text(f"{found[1]}\n", encoding="utf-8")

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _home() -> Path:
    home = Path(tempfile.gettempdir())
    return home if len(str(home)) <= LONGEST else Path("/tmp")


def _lock(directory: Path) -> int | None:
    """The directory's lock, held by an open descriptor; None when another process has it."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _marked(directory: Path) -> bool:
    try:
        return (directory / "lock").stat().st_size > 0
    except FileNotFoundError:
        return False


def _stale(home: Path) -> Iterator[Path]:
    """Our directories in *home* whose process is gone."""
    for directory in home.glob(f"{PREFIX}*"):
        try:
            state = directory.lstat()
            if state.st_uid != os.geteuid() or directory.is_symlink():
                continue
            if not _marked(directory) and time.time() - state.st_mtime < YOUNG:
                continue
            lock = _lock(directory)
        except OSError:  # gone meanwhile
            continue
        if lock is not None:
            yield directory
            os.close(lock)


def dead_sockets(home: Path) -> Iterator[Path]:
    """libguestfs's directories in *home* whose socket nobody has open any more: sfvm was killed during a launch."""
    bound = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
    for directory in home.glob("libguestfs??????"):
        with contextlib.suppress(OSError):  # gone meanwhile, or not ours
            state = directory.lstat()
            old = time.time() - state.st_mtime > YOUNG
            names = {path.name for path in directory.iterdir()} if old and state.st_uid == os.geteuid() else set()
            if SOCKET in names and names <= {SOCKET, "console.sock"} and f"{directory}/" not in bound:
                yield directory
