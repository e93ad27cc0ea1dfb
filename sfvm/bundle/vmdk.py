"""Writes streamOptimized VMDK files: each grain is deflated apart, on all CPUs, in one pass from the first to the last.

Source: VMware, "Virtual Disk Format 5.0" (the technical note ``vmdk_50_technote``): sparse extent header, grain
directory and tables, stream-optimized compressed sparse extents. All numbers are little-endian, all offsets sectors of
512 bytes.

``qemu-img`` (7.2 at least) writes no end-of-stream marker: what follows its last grain is up to 127 sectors of zeros,
or nothing. A reader of streams stops at the marker, so its digest is another than that of the file. Here the marker is
the file's last sector.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sfvm.bundle.compression import Sink
from sfvm.bundle.holes import spans

SECTOR = 512
GRAIN = 128 * SECTOR
TABLE = 512
"""Grains of a grain table: the format has this one number."""
BATCH = 16 * GRAIN
"""What one thread deflates at a time; divides what a grain table covers."""
LEVEL = 4
"""Of zlib: two thirds of the time of 6, its default, for 1 % more."""
DESCRIPTOR, DESCRIPTOR_ROOM = 1, 20
OVERHEAD = 128
"""Where the grains begin, as VMware's own files have it."""
AT_END = (1 << 64) - 1
FLAGS = 1 | 1 << 16 | 1 << 17
"""The newline test is valid; grains are compressed; there are markers."""
TABLE_MARKER, DIRECTORY_MARKER, FOOTER_MARKER = 1, 2, 3
LARGEST = 1 << 32
"""Sectors of a file: a grain table has 32 bits for each."""

_EMPTY = bytes(GRAIN)


class TooLarge(ValueError):
    """More than a VMDK can say."""


@dataclass(frozen=True)
class Descriptor:
    """What the file says of itself: its *name*, the *adapter* that it was made for (``lsilogic``, ``buslogic``,
    ``ide``; pvscsi and AHCI say ``lsilogic``), the *hardware* version, and the *content* identifier (32 bits, neither
    ffffffff nor fffffffe)."""

    name: str
    adapter: str
    hardware: int
    content: int

    def text(self, sectors: int) -> bytes:
        """The descriptor of a disk of *sectors*. 2147483647 is the version of tools that the guest's distribution
        looks after (open-vm-tools)."""
        heads = 16 if self.adapter == "ide" else 255
        cylinders = sectors // (heads * 63)
        lines = (
            "# Disk DescriptorFile",
            "version=1",
            f"CID={self.content:08x}",
            "parentCID=ffffffff",
            'createType="streamOptimized"',
            "",
            "# Extent description",
            f'RW {sectors} SPARSE "{self.name}"',
            "",
            "# The Disk Data Base",
            "#DDB",
            "",
            f'ddb.adapterType = "{self.adapter}"',
            f'ddb.geometry.cylinders = "{min(cylinders, 16383) if self.adapter == "ide" else cylinders}"',
            f'ddb.geometry.heads = "{heads}"',
            'ddb.geometry.sectors = "63"',
            'ddb.toolsVersion = "2147483647"',
            f'ddb.virtualHWVersion = "{self.hardware}"',
            "",
        )
        text = "\n".join(lines).encode()
        if len(text) > DESCRIPTOR_ROOM * SECTOR:
            raise TooLarge("the name is too long")
        return text


def write_stream(disk: Path, sink: Sink, descriptor: Descriptor, progress: Callable[[float], None]) -> None:
    """Write the raw *disk* to *sink*. What comes out depends on its bytes alone: grains of zeros are left out, be they
    holes or not. *progress* gets 0 to 1, and may raise.

    :raises TooLarge: it becomes larger than a VMDK can be
    """
    size = disk.stat().st_size
    capacity = -(-size // SECTOR)
    stream = _Stream(sink, capacity)
    stream.write(_header(capacity, AT_END) + _padded(descriptor.text(capacity), DESCRIPTOR_ROOM))
    stream.write(bytes((OVERHEAD - DESCRIPTOR - DESCRIPTOR_ROOM) * SECTOR))
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers, thread_name_prefix="vmdk")
    try:
        with disk.open("rb", buffering=0) as file:
            number = file.fileno()
            offsets = spans(number, size, BATCH)
            pending: deque[tuple[int, Future[list[bytes]]]] = deque()
            while True:
                for offset in islice(offsets, 3 * workers - len(pending)):
                    pending.append((offset, pool.submit(_deflated, number, offset)))
                if not pending:
                    break
                offset, batch = pending.popleft()
                stream.grains(offset // GRAIN, batch.result())
                progress(offset / size)
    finally:
        pool.shutdown(cancel_futures=True)
    stream.finish()


def _deflated(file: int, offset: int) -> list[bytes]:
    """The grains of the batch at *offset*, each behind its marker and padded; empty ones for zeros."""
    data = os.pread(file, BATCH, offset)
    found = []
    for start in range(0, len(data), GRAIN):
        grain = data[start : start + GRAIN].ljust(GRAIN, b"\0")
        if grain == _EMPTY:
            found.append(b"")
            continue
        packed = zlib.compress(grain, LEVEL)
        found.append(_padded(struct.pack("<QI", (offset + start) // SECTOR, len(packed)) + packed))
    return found


class _Stream:
    """The file so far: *position* in sectors, the *directory*, and the grain *table* that is being filled."""

    def __init__(self, sink: Sink, capacity: int) -> None:
        self.sink = sink
        self.capacity = capacity
        self.position = 0
        self.directory = [0] * -(-capacity * SECTOR // (TABLE * GRAIN))
        self.number = 0
        self.table = [0] * TABLE

    def write(self, data: bytes) -> None:
        self.sink.write(data)
        self.position += len(data) // SECTOR
        if self.position > LARGEST:
            raise TooLarge(f"it becomes larger than {LARGEST * SECTOR >> 40} TiB")

    def grains(self, first: int, grains: list[bytes]) -> None:
        """Append the *grains* of the disk from number *first* on."""
        number, entry = divmod(first, TABLE)
        if number != self.number:
            self.end_table()
            self.number = number
        for index, grain in enumerate(grains, entry):
            if grain:
                self.table[index] = self.position
                self.write(grain)

    def end_table(self) -> None:
        if any(self.table):
            self.directory[self.number] = self.marked(TABLE_MARKER, self.table)
            self.table = [0] * TABLE

    def marked(self, kind: int, entries: list[int]) -> int:
        """Write a table behind its marker; return where it begins."""
        data = _padded(struct.pack(f"<{len(entries)}I", *entries))
        self.write(_marker(len(data) // SECTOR, kind))
        start = self.position
        self.write(data)
        return start

    def finish(self) -> None:
        self.end_table()
        directory = self.marked(DIRECTORY_MARKER, self.directory)
        self.write(_marker(1, FOOTER_MARKER) + _header(self.capacity, directory))
        self.write(_marker(0, 0))  # the end of the stream


def _marker(sectors: int, kind: int) -> bytes:
    """What stands before metadata: how many sectors it has, 0 where a grain tells its length, and what it is."""
    return _padded(struct.pack("<QII", sectors, 0, kind))


def _header(capacity: int, directory: int) -> bytes:
    """The sparse extent header, and, with the place of the grain *directory*, the footer."""
    fields = struct.pack(
        "<4sIIQQQQIQQQB4sH",
        b"KDMV", 3, FLAGS, capacity, GRAIN // SECTOR, DESCRIPTOR, DESCRIPTOR_ROOM, TABLE, 0, directory, OVERHEAD,
        0, b"\n \r\n", 1,
    )  # fmt: skip
    return _padded(fields)


def _padded(data: bytes, sectors: int = 0) -> bytes:
    """*data* up to a whole sector, or to so many *sectors*."""
    return data.ljust(sectors * SECTOR or -(-len(data) // SECTOR) * SECTOR, b"\0")
