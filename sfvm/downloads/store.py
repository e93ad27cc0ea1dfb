"""The files of the download cache: contents by their SHA-256, and what was last found under a URL.

A directory with ``sha256/<sha256>`` and ``url/<SHA-256 of the URL>``, a small JSON file that names the content and the
validators that came with it. Any number of processes use it without locks: files appear by renaming, and a content is
compared with its name before it is used, so a damaged one is no worse than a missing one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from sfvm import safejson

BLOCK = 1 << 20
MAX_AGE = 30 * 86400.0
"""Seconds after which what nobody has used is garbage."""
ABANDONED = 86400.0
"""The same for a download that was never finished."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Entry:
    """What a URL had: the content's SHA-256 and size, and HTTP's Last-Modified, ETag and Content-Type (or nothing)."""

    sha256: str
    size: int
    modified: str
    etag: str
    kind: str


class Store:
    """The cache in *directory*, which is made when something is first written."""

    def __init__(self, directory: Path) -> None:
        self.contents = directory / "sha256"
        self.urls = directory / "url"
        self._compared: dict[str, tuple[int, int, int]] = {}

    def content(self, sha256: str) -> Path:
        """Where the content with this digest is kept, there or not."""
        return self.contents / sha256

    @contextlib.contextmanager
    def open(self, url: str) -> Iterator[tuple[Entry, BinaryIO] | None]:
        """What *url* had the last time, its bytes compared with their digest; None when that is unknown."""
        place = self._url(url)
        try:
            entry = Entry(**safejson.loads(place.read_bytes()))
            if not re.fullmatch(r"[0-9a-f]{64}", entry.sha256):
                raise ValueError
        except (OSError, ValueError, TypeError):
            yield None
            return
        with self.find(entry.sha256) as file:
            if file is not None:
                _touch(place)
            yield (entry, file) if file is not None else None

    @contextlib.contextmanager
    def find(self, sha256: str) -> Iterator[BinaryIO | None]:
        """The content with this digest, its bytes compared with it (once, as long as the file stays what it is)."""
        path = self.content(sha256)
        try:
            file = path.open("rb", buffering=0)
        except OSError:
            yield None
            return
        with file:
            if self._compared.get(sha256) != _state(file):
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    path.unlink(missing_ok=True)
                    yield None
                    return
                file.seek(0)
            _touch(path)
            self._compared[sha256] = _state(file)
            yield file

    @contextlib.contextmanager
    def draft(self) -> Iterator[Draft | None]:
        """A file for a new content; None when none can be made (no room, no permission)."""
        path = self.contents / f"new.{os.getpid()}.{secrets.token_hex(6)}"
        try:
            self.contents.mkdir(parents=True, exist_ok=True)
            file = path.open("x+b", buffering=0)
        except OSError:
            yield None
            return
        try:
            with file:
                yield Draft(self, file, path)
        finally:
            path.unlink(missing_ok=True)

    def remember(self, url: str, entry: Entry) -> None:
        """:raises OSError: it cannot be written"""
        self.urls.mkdir(parents=True, exist_ok=True)
        place = self._url(url)
        path = place.with_name(f"new.{os.getpid()}.{secrets.token_hex(6)}")
        try:
            path.write_text(json.dumps(asdict(entry)), encoding="utf-8")
            path.replace(place)
        finally:
            path.unlink(missing_ok=True)

    def forget(self, url: str) -> None:
        """Ask for *url* anew the next time."""
        self._url(url).unlink(missing_ok=True)

    def _url(self, url: str) -> Path:
        return self.urls / hashlib.sha256(url.encode()).hexdigest()

    def outdated(self, kept: Collection[str] = ()) -> list[Path]:
        """What gc may remove: not used for :data:`MAX_AGE`, or never finished; not the contents with digests *kept*."""
        now = time.time()
        found = []
        for directory in (self.urls, self.contents):
            for path in directory.iterdir() if directory.is_dir() else ():
                if path.name in kept:
                    continue
                with contextlib.suppress(FileNotFoundError):
                    if now - path.stat().st_mtime > (ABANDONED if path.name.startswith("new.") else MAX_AGE):
                        found.append(path)
        return sorted(found)


def _touch(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # gc has just taken it
        os.utime(path)


def _state(file: BinaryIO) -> tuple[int, int, int]:
    """What changes whenever the content of *file* does, or may have."""
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns


class Draft:
    """A content that is being written. It is not flushed to the disk: a power cut leaves a damaged file at most, and
    that is found when it is used."""

    def __init__(self, store: Store, file: BinaryIO, path: Path) -> None:
        self.store = store
        self.file = file
        self.path = path
        self.digest = hashlib.sha256()
        self.size = 0

    def reserve(self, size: int) -> bool:
        """Whether there is room for *size* bytes, all that will come. On some filesystems that is not known before."""
        try:
            if size:
                os.posix_fallocate(self.file.fileno(), 0, size)
        except OSError as error:
            return error.errno not in FULL
        return True

    def write(self, data: bytes) -> bool:
        """Whether there was room for *data*."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self.file.write(rest) :]
        except OSError:
            return False
        self.digest.update(data)
        self.size += len(data)
        return True

    def give_up(self) -> None:
        """Keep nothing of it; its room is free at once."""
        self.path.unlink(missing_ok=True)

    def keep(self) -> str:
        """Put it into the store; return its SHA-256.

        :raises OSError: it cannot be written
        """
        sha256 = self.digest.hexdigest()
        self.path.replace(self.store.content(sha256))
        return sha256
