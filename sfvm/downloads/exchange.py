"""Unpacked packages on their way into a VM: a sparse file that is a read-only disk there.

A VM asks by the SHA-256 of a package that it has, and its package manager has checked, so what it gets is that very
package in another form. Every place in the file is written once, before anybody is told of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sfvm.downloads.unpack import ALIGNMENT, NotUnpacked, unpack

SIZE = 16 << 30
"""What the disk claims to have. What does not fit is left packed."""


@dataclass(frozen=True)
class Unpacked:
    """Where the unpacked form of the package *sha256* lies: *offset* and *length*, multiples of 4 KiB."""

    sha256: str
    offset: int
    length: int


class Exchange:
    """The file *path*, made new and removed by :meth:`close`. One thread unpacks, in the order of asking.

    :raises OSError: the file cannot be made
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._end = 0
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="unpacking")
        self._asked: dict[str, Future[Unpacked | None]] = {}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, SIZE)

    def add(self, sha256: str, package: Path) -> None:
        """Unpack the file *package*, whose content has this digest, in the background."""
        if sha256 not in self._asked:
            with contextlib.suppress(RuntimeError):  # it is being closed
                self._asked[sha256] = self._worker.submit(self._unpack, sha256, package)

    def find(self, digests: Iterable[str]) -> list[Unpacked]:
        """Those that have been added and can be unpacked, once they are."""
        futures = [self._asked[digest] for digest in digests if digest in self._asked]
        return [found for future in futures if not future.cancelled() and (found := future.result()) is not None]

    def _unpack(self, sha256: str, package: Path) -> Unpacked | None:
        start = self._end

        def put(offset: int, data: bytes) -> None:
            if start + offset + len(data) > SIZE - ALIGNMENT:
                raise NotUnpacked("the exchange is full")
            os.pwrite(self._file, data, start + offset)

        try:
            with package.open("rb") as file:
                length = unpack(file, put)
        except (NotUnpacked, OSError, MemoryError):  # the VM unpacks it itself
            return None
        self._end = start + length
        return Unpacked(sha256, start, length)

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)
        os.close(self._file)
        self.path.unlink(missing_ok=True)
