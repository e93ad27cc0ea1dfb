"""Where a sparse file holds data."""

from __future__ import annotations

import os
from collections.abc import Iterator


def spans(descriptor: int, size: int, unit: int) -> Iterator[int]:
    """The offsets, in order, of the pieces of *unit* bytes of an open file of *size* bytes that hold data; those that
    are holes are not looked at (lseek(2), SEEK_DATA)."""
    position = end = 0
    while position < size:
        if position >= end:
            try:
                start = os.lseek(descriptor, position, os.SEEK_DATA)
            except OSError:
                return  # ENXIO: nothing but a hole from here on
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
            position = max(position, start // unit * unit)
        yield position
        position += unit
