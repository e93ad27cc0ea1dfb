"""Writing files so that a kill, a full disk or a power cut leaves the old state or the new one, nothing between."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sfvm import safejson
from sfvm.errors import RepositoryError, SfvmError

POLL = 0.1
"""Seconds between two looks at a lock that another process holds: builds wait in threads, which no signal reaches."""

_FULL = {errno.ENOSPC: "the file system is full", errno.EDQUOT: "the disk quota is used up"}


class LockCancelled(SfvmError):
    """The wait for a lock was given up because the caller was cancelled."""

    def __init__(self) -> None:
        super().__init__("waiting for another build was cancelled", hint="run the same command again")


@contextmanager
def writing(what: str, where: Path) -> Iterator[None]:
    """Turn the errors of writing *what* below *where* into a clear RepositoryError."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        raise RepositoryError(
            f"{what} cannot be written to {where}",
            why=_FULL.get(number, f"{error.filename or where}: {error.strerror or error}"),
            hint="make room (`sfvm gc` frees what nothing needs)" if number in _FULL else "check owner and permissions",
        ) from error


def sync(path: Path) -> None:
    """Flush a file or a directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary(directory: Path, stem: str) -> Path:
    """A name in *directory* that nothing else has; whoever is killed leaves it to gc. It tells its process."""
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{stem}.{os.getpid()}.{secrets.token_hex(6)}"


def write_atomically(path: Path, content: bytes, temporaries: Path) -> None:
    """Create or replace the file *path*; *temporaries* is a directory of the same file system.

    :raises OSError: nothing has changed then
    """
    draft = temporary(temporaries, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def keep(source: Path, sha256: str, target: Path, temporaries: Path) -> None:
    """Copy *source*, whose content must have this SHA-256, to *target*, atomically.

    :raises RepositoryError: it has another
    """
    draft = temporary(temporaries, target.name)
    digest = hashlib.sha256()
    try:
        with source.open("rb") as reader, draft.open("xb") as writer:
            while chunk := reader.read(1 << 20):
                digest.update(chunk)
                writer.write(chunk)
            writer.flush()
            os.fsync(writer.fileno())
        if digest.hexdigest() != sha256:
            raise RepositoryError(
                f"{source} is not what was expected",
                why=f"its sha256 is {digest.hexdigest()}, not {sha256}",
                hint="correct the sha256 in the spec if the new content is right",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.rename(target)
    finally:
        draft.unlink(missing_ok=True)
    sync(target.parent)


def listing(directory: Path) -> list[str]:
    """The names in a directory; none when it does not exist."""
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


class Lock:
    """An flock'd file that tells who holds it. The kernel releases it when the process ends, however it ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def take(cls, path: Path, *, shared: bool = False) -> Lock | None:
        """The lock, or None when another process (or thread) holds it."""
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                if _is_at(descriptor, path):
                    return cls(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # removed by its last holder between open and flock: take the new one

    def describe(self, **more: Any) -> None:
        """Write down who holds it (and *more*), for those who wait: see :func:`holder`."""
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200]
        command = command.encode("utf-8", "backslashreplace").decode()  # an argument may be any bytes
        told = {"pid": os.getpid(), "command": command, "since": time.time(), **more}
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, json.dumps(told).encode(), 0)

    def release(self, *, remove: bool = False) -> None:
        """Give it up; *remove* the file as well (those who wait notice and make a new one)."""
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self.descriptor)


def holder(path: Path) -> str:
    """Who holds the lock *path*, for people."""
    try:
        told = safejson.loads(path.read_bytes())
        since = time.strftime("%H:%M", time.localtime(told["since"]))
        return f"pid {told['pid']} ({told['command']}) since {since}"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "another process"  # it has the lock, but not yet written its name


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    mine = os.fstat(descriptor)
    return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)


def wait(
    path: Path,
    *,
    shared: bool = False,
    on_wait: Callable[[], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Lock:
    """Take the lock *path*, waiting as long as it takes; *on_wait* is called once when it must wait.

    :raises LockCancelled: *cancelled* has become true
    """
    waited = False
    while (lock := Lock.take(path, shared=shared)) is None:
        if cancelled is not None and cancelled():
            raise LockCancelled
        if not waited and on_wait is not None:
            on_wait()
        waited = True
        time.sleep(POLL)
    return lock
