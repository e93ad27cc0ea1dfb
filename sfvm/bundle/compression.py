"""Compressed streams that use all CPUs. What comes out depends on what goes in alone, not on the number of CPUs."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Protocol

from sfvm.bundle.stage import Unfit
from sfvm.errors import BundleError

GZIP_BLOCK = 1 << 20
GZIP_WINDOW = 32 << 10
"""So far back deflate refers (RFC 1951)."""
XZ_LEVEL = 6
XZ_BLOCK = 24 << 20
"""Three times the dictionary of level 6, as xz(1) has it by default."""


class Sink(Protocol):
    """What bytes are written to."""

    def write(self, data: bytes) -> int:
        """Write all of *data*."""


def compressed(kind: str, sink: Sink, level: int = XZ_LEVEL) -> AbstractContextManager[Sink]:
    """A sink that writes what it gets to *sink*, as ``gzip``, ``xz`` (of this *level*), ``zstd`` or ``none``; complete
    at the end of the context. Neither names nor times are in it.

    :raises Unfit: xz(1) is not installed
    """
    if kind == "xz":
        return _xz(sink, level)
    kinds: dict[str, Callable[[Sink], AbstractContextManager[Sink]]] = {"gzip": _gzip, "zstd": _zstd}
    return nullcontext(sink) if kind == "none" else kinds[kind](sink)


@contextmanager
def _zstd(sink: Sink) -> Iterator[Sink]:
    """Its threads' jobs are of one size; one thread is not the same as none."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=3, threads=os.cpu_count() or 1)
    with compressor.stream_writer(sink, closefd=False) as writer:  # type: ignore[arg-type]  # it only writes
        yield writer


@contextmanager
def _xz(sink: Sink, level: int) -> Iterator[Sink]:
    """Python's lzma has one thread; with more than one, xz(1) cuts blocks of one size."""
    program = shutil.which("xz")
    if program is None:
        raise Unfit("xz is not installed", hint="./bootstrap installs it; or choose gzip or zstd")
    threads = max(2, min(os.cpu_count() or 1, 8))  # each takes about 160 MiB
    command = [program, f"-{level}", f"-T{threads}", f"--block-size={XZ_BLOCK}", "--quiet", "--stdout"]
    errors: list[OSError] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0) as process:
        source, target = process.stdout, process.stdin
        assert source is not None and target is not None

        def pump() -> None:
            try:
                while block := source.read(1 << 20):
                    sink.write(block)
            except OSError as error:  # raised below; xz ends for want of a reader
                errors.append(error)
                source.close()

        pumping = threading.Thread(target=pump, name="xz")
        pumping.start()
        try:
            yield target
            target.close()
        except BrokenPipeError:
            pass  # it has ended: told below
        except BaseException:
            process.kill()
            raise
        finally:
            with suppress(OSError):
                target.close()
            pumping.join()
    if errors:
        raise errors[0]
    if process.returncode:
        raise BundleError("xz failed", why=f"exit status {process.returncode}", hint="choose gzip or zstd")


@contextmanager
def _gzip(sink: Sink) -> Iterator[Sink]:
    """One member (RFC 1952), as pigz makes it: blocks that know the window before them and end on a byte are compressed
    apart, and joined."""
    workers = os.cpu_count() or 1
    pool = ThreadPoolExecutor(workers, thread_name_prefix="gzip")
    try:
        blocks = _GzipBlocks(sink, pool, workers)
        sink.write(b"\x1f\x8b\x08\0\0\0\0\0\0\xff")
        yield blocks
        blocks.finish()
    finally:
        pool.shutdown(cancel_futures=True)


class _GzipBlocks:
    def __init__(self, sink: Sink, pool: ThreadPoolExecutor, workers: int) -> None:
        self.sink = sink
        self.pool = pool
        self.most = 2 * workers
        self.rest = bytearray()
        self.window = b""
        self.sum = self.size = 0
        self.pending: deque[Future[bytes]] = deque()

    def write(self, data: bytes) -> int:
        self.rest += data
        while len(self.rest) >= GZIP_BLOCK:
            self._put(bytes(self.rest[:GZIP_BLOCK]))
            del self.rest[:GZIP_BLOCK]
        return len(data)

    def finish(self) -> None:
        self._put(bytes(self.rest), last=True)
        self._write(0)
        self.sink.write(struct.pack("<II", self.sum, self.size & 0xFFFFFFFF))

    def _put(self, block: bytes, *, last: bool = False) -> None:
        self.sum, self.size = zlib.crc32(block, self.sum), self.size + len(block)
        self.pending.append(self.pool.submit(_deflate, block, self.window, last))
        self.window = block[-GZIP_WINDOW:]
        self._write(self.most)

    def _write(self, left: int) -> None:
        while len(self.pending) > left:
            self.sink.write(self.pending.popleft().result())


def _deflate(block: bytes, window: bytes, last: bool) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=window)
    return compressor.compress(block) + compressor.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
