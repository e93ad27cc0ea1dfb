"""Digests of artifacts: taken while they are written, or from one reading."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from sfvm.bundle.holes import next_data

BLOCK = 1 << 20
_ZEROS = memoryview(bytes(BLOCK))


class HashingFile:
    """A *file* open for writing, and the SHA-256 of what went into it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write all of *data*."""
        self._digest.update(data)
        return self._file.write(data)

    def sha256(self) -> str:
        """In hexadecimal, of what was written so far."""
        return self._digest.hexdigest()


def digests(path: Path, algorithms: Iterable[str], progress: Callable[[float], None]) -> dict[str, str]:
    """The digests of a file by algorithm, in hexadecimal, from one reading; *progress* gets 0 to 1 by hundredths, and
    may raise.

    Holes are not read: the kernel would fill its memory with their zeros (lseek(2), SEEK_DATA).
    """
    found = {algorithm: hashlib.new(algorithm) for algorithm in algorithms}
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        size, position, told = os.fstat(file.fileno()).st_size, 0, 0
        while position < size:
            data = next_data(file.fileno(), position, size)
            if data > position:
                block = _ZEROS[: min(data - position, BLOCK)]
            else:
                file.seek(position)
                block = buffer[: file.readinto(buffer)]
            if not block:
                break  # it is shorter than it was
            for digest in found.values():
                digest.update(block)
            position += len(block)
            if (now := 100 * position // size) > told:
                told = now
                progress(position / size)
    return {algorithm: digest.hexdigest() for algorithm, digest in found.items()}
