"""Where a sparse file holds data (lseek(2), SEEK_DATA and SEEK_HOLE)."""

from __future__ import annotations

import os
from collections.abc import Iterator


def next_data(descriptor: int, position: int, size: int) -> int:
    """Where the next data at or after *position* begins; *size* when there is none."""
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError:
        return size  # ENXIO: nothing but a hole from here on


def extents(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Where the data of an open file of *size* bytes begins and ends, piece by piece."""
    position = 0
    while (start := next_data(descriptor, position, size)) < size:
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def spans(descriptor: int, size: int, unit: int) -> Iterator[int]:
    """The offsets, in order and each once, of the pieces of *unit* bytes that hold data; those that are holes are not
    looked at."""
    position = 0
    for start, end in extents(descriptor, size):
        position = max(position, start // unit * unit)
        while position < end:
            yield position
            position += unit
