"""Fetching what has a known SHA-256: resumed where it broke, checked, and kept under its digest.

A draft is ``downloads/partial/<digest>``, locked by whoever writes it: a second process waits, and finds the content.
A draft that was left behind, by a broken connection or a killed process, is continued.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sfvm.downloads.access import Access
from sfvm.downloads.fetched import Fetched
from sfvm.downloads.upstream import BLOCK
from sfvm.errors import Place, SpecError
from sfvm.events import Preparing
from sfvm.sources import name_of
from sfvm.sources.remote import Broken, Remote, Unavailable, connect

RESUMES = 10
"""So often one transfer is continued, each time with something gained."""
QUIET = 1.0
"""Seconds of a transfer before anybody is told of it, and between two words."""
POLL = 0.1


def fetch(url: str, sha256: str, access: Access, place: Place | None = None) -> Path:
    """The file with the content of this digest, from *url* unless it is kept already.

    :raises SpecError: it cannot be had, or *url* has another content
    :raises Cancelled: *access* stops
    """
    begun = time.monotonic()
    cached = True
    try:
        if (kept := find(sha256, access)) is None:
            with _draft(access, sha256) as draft:
                if (kept := find(sha256, access)) is None:  # else another process had the draft
                    cached = False
                    _Transfer(url, sha256, access, place).complete(draft)
                    kept = keep(_partial(access, sha256), sha256, access)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise SpecError(
            f"{name_of(url)} cannot be kept",
            place=place,
            why="the disk is full" if full else f"{error.filename or sha256}: {error.strerror or error}",
            hint="make room (`sfvm gc` frees what nothing needs)" if full else "check owner and permissions",
        ) from error
    record(url, kept, access, begun, cached=cached)
    return kept


def find(sha256: str, access: Access) -> Path | None:
    """The file of the download cache that has this content, compared with its digest; None when there is none."""
    store = access.store
    with store.find(sha256) as file:
        return store.content(sha256) if file is not None else None


def record(url: str, kept: Path, access: Access, begun: float, *, cached: bool) -> None:
    """Note for the node's manifest that *url* has what *kept* has; it took from *begun* (:func:`time.monotonic`). Files
    of this host are nothing that anybody could fetch again, by a lock."""
    if url.startswith("file:"):
        return
    seconds = round(time.monotonic() - begun, 3)
    access.ledger.add(Fetched(url, kept.name, kept.stat().st_size, seconds, cached))


def keep(draft: Path, sha256: str, access: Access) -> Path:
    """Make the file *draft*, which has this content, one of the download cache, on the same file system; return that.

    :raises OSError: it cannot be written
    """
    kept = access.store.content(sha256)
    kept.parent.mkdir(parents=True, exist_ok=True)
    _sync(draft)
    draft.rename(kept)
    _sync(kept.parent)
    return kept


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial(access: Access, sha256: str) -> Path:
    return access.store.contents.parent / "partial" / sha256


@contextlib.contextmanager
def _draft(access: Access, sha256: str) -> Iterator[BinaryIO]:
    """The draft, locked, at its beginning; it stays unless it is renamed or removed."""
    path = _partial(access, sha256)
    while True:
        access.stop.check()
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(POLL)
                continue
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                try:
                    yield file
                finally:
                    if os.fstat(file.fileno()).st_size == 0:
                        path.unlink(missing_ok=True)
                return


class _Transfer:
    """One content on its way from *url*."""

    def __init__(self, url: str, sha256: str, access: Access, place: Place | None = None) -> None:
        self.url = url
        self.sha256 = sha256
        self.access = access
        self.place = place
        self.begun = self.told = time.monotonic()

    def complete(self, draft: BinaryIO) -> None:
        """Make *draft* the whole content, on the disk.

        :raises SpecError: it cannot be had
        :raises OSError: it cannot be written
        """
        path = _partial(self.access, self.sha256)
        continued = os.fstat(draft.fileno()).st_size > 0
        try:
            found = self._digest(draft)
            if found != self.sha256 and continued:  # what was left was perhaps the beginning of something else
                draft.truncate(0)
                found = self._digest(draft)
            if found != self.sha256:
                path.unlink()
                raise SpecError(
                    f"{name_of(self.url)} is not what the spec expects",
                    place=self.place,
                    why=f"the sha256 of what {self.url} has is {found}",
                    hint="correct the URL, or the sha256 if the new content is right",
                )
            draft.flush()
        except OSError:
            path.unlink(missing_ok=True)  # a full disk: its room is free at once
            raise
        finally:
            if self.told > self.begun:
                self.access.listener(Preparing(self._what, done=True))

    @property
    def _what(self) -> str:
        return f"download of {name_of(self.url)}"

    def _digest(self, draft: BinaryIO) -> str:
        """Append to *draft* what is missing; return the digest of all."""
        digest = hashlib.sha256()
        draft.seek(0)
        while block := draft.read(BLOCK):
            self.access.stop.check()
            digest.update(block)
        attempts = 0
        while digest.hexdigest() != self.sha256:
            start = draft.tell()
            try:
                with connect(self.url, start, self.access) as remote:
                    if remote.offset != start:  # it cannot begin in the middle
                        draft.seek(0)
                        draft.truncate()
                        digest = hashlib.sha256()
                    self._copy(remote, draft, digest)
                break
            except Broken as error:
                attempts += 1
                if draft.tell() <= start or attempts > RESUMES:
                    raise self._failed(str(error), "run the same command again: it goes on where it broke") from error
            except Unavailable as error:
                raise self._failed(str(error), error.hint) from error
        return digest.hexdigest()

    def _copy(self, remote: Remote, draft: BinaryIO, digest: hashlib._Hash) -> None:
        """:raises Broken: it ended too early"""
        while block := remote.read():
            self.access.stop.check()
            digest.update(block)
            draft.write(block)
            self._tell(draft.tell(), remote.size)
        if remote.size is not None and draft.tell() != remote.size:
            raise Broken(f"the connection ended after {draft.tell()} of {remote.size} bytes")

    def _tell(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        if now - self.told >= QUIET:
            self.told = now
            self.access.listener(Preparing(self._what, min(done / size, 1.0) if size else None))

    def _failed(self, why: str, hint: str) -> SpecError:
        return SpecError(f"{self.url} cannot be fetched", place=self.place, why=why, hint=hint)
