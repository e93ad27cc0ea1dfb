"""Archives from outside: looked at on the host before anything unpacks them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any

from sfvm.cancellation import NEVER, Cancellation
from sfvm.errors import Place, SpecError

ZSTD = b"\x28\xb5\x2f\xfd"
MAX_HOPS = 40
"""Symlinks on one path, as Linux has it."""
MAX_MEMBERS = 4_000_000
"""As many as a filesystem of 64 GiB has inodes, as mke2fs makes them."""
MAX_HEADER = 1 << 20
"""Bytes that tarfile may want at once: of the extended header of one member."""
MAX_HEADERS = 4 << 20
"""Bytes of all that comes before the content of one member; a map of holes takes ten times that in memory."""
SKIP = 1 << 20
DAMAGE = (
    tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError,
    ValueError, IndexError, OverflowError, RecursionError,
)  # fmt: skip
"""What reading an archive that is none, or damaged, raises; the last four come from the depths of tarfile."""


class TooLarge(Exception):
    """An archive unpacks to more than it may, or has too many members; the message says so."""


def check(path: Path, name: str, place: Place, limit: int, *, stop: Cancellation = NEVER) -> None:
    """Make sure that unpacking the tar file at *path* writes only below where it is unpacked, no more than *limit*
    bytes, and makes devices only below ``dev``. *name* is what messages call it.

    It reads no further than to the first member that is wrong, and never more than *limit* bytes, whatever a small file
    would unpack to.

    :raises SpecError: it is no archive, or a member is absolute, has ``..``, or is written through a link of the
        archive that leads outside; or it is too large
    :raises Cancelled: *stop* asks for it
    """
    try:
        with opened(path, limit) as archive:
            links: dict[str, str] = {}
            devices: set[str] = set()
            for member in members(archive):
                stop.check()
                where = located(member.name, links)
                if where is None:
                    raise _refused(name, member.name, "it would be written outside", place)
                target = located(member.linkname, links) if member.islnk() else None
                if member.islnk() and target is None:
                    raise _refused(name, member.name, "it is a hard link to something outside", place)
                device = member.ischr() or member.isblk() or target in devices
                if device and not where.startswith("dev/"):
                    raise _refused(name, member.name, "it is a device, and not below dev", place)
                if not member.isdir():  # a directory does not replace a symlink to one
                    links.pop(where, None)
                    devices.discard(where)
                if device:
                    devices.add(where)
                if member.issym():
                    # One that leads outside is fine in a guest (/etc/mtab), but nothing may be written through it.
                    links[where] = member.linkname
                elif target in links:
                    links[where] = links[target]
    except TooLarge as error:
        raise SpecError(
            f"{name} is refused: {error}", place=place, hint='make <disk size="…"/> larger, if the archive is to be so'
        ) from None
    except DAMAGE as error:
        raise _damaged(name, str(error), place) from error


def located(name: str, links: Mapping[str, str]) -> str | None:
    """Where *name* is, the symlinks unpacked so far followed in its directory part; None: outside, or in a loop."""
    here: list[str] = []
    rest = name.split("/")[::-1]
    if name.startswith("/") or ".." in rest:
        return None
    hops = 0
    while rest:
        part = rest.pop()
        if part == "..":
            if not here:
                return None
            here.pop()
        elif part not in ("", "."):
            here.append(part)
            target = links.get("/".join(here))
            if target is not None and any(more not in ("", ".") for more in rest):
                hops += 1
                if target.startswith("/") or hops > MAX_HOPS:
                    return None
                here.pop()
                rest += target.split("/")[::-1]
    return "/".join(here)


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Those of an :func:`opened` or :func:`indexed` tar, in order; none is kept.

    :raises TooLarge: there are more than :data:`MAX_MEMBERS`
    :raises Exception: one of :data:`DAMAGE`
    """
    count = 0
    file: Any = archive.fileobj
    while True:
        file.begin()
        if (member := archive.next()) is None:
            return
        file.headers = None
        vars(archive)["members"].clear()  # tarfile would keep them all
        count += 1
        if count > MAX_MEMBERS:
            raise TooLarge(f"it has more than {MAX_MEMBERS} members")
        if member.size < 0:
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        yield member


@contextmanager
def indexed(path: Path) -> Iterator[tarfile.TarFile]:
    """The uncompressed tar file at *path*, for its :func:`members` and where in it they are: contents are skipped.

    :raises Exception: one of :data:`DAMAGE`
    """
    with _Seeking(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        yield archive


@contextmanager
def opened(path: Path, limit: int = sys.maxsize) -> Iterator[tarfile.TarFile]:
    """The tar file at *path*, to be read once from the beginning to the end, which must be one.

    :raises TooLarge: unpacked, it has more than *limit* bytes
    :raises Exception: one of :data:`DAMAGE`
    """
    with _plain(path) as file:
        forward: Any = _Forward(file, limit)
        with tarfile.open(fileobj=forward, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            yield archive
            _require_end(archive)


def _require_end(archive: tarfile.TarFile) -> None:
    """Python's tarfile takes anything that is no header for the end; tar would skip it and go on with what follows.

    :raises tarfile.ReadError: what follows the last member is neither a block of zeros nor the end of the file
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("what follows the last member is no member")


class _Headers:
    """What of *headers* may still be read, in bytes, where that is no content (None: it is)."""

    headers: int | None = None

    def begin(self) -> None:
        self.headers = MAX_HEADERS

    def spend(self, size: int) -> None:
        """:raises tarfile.ReadError: *size* bytes are too many"""
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        if self.headers is not None:
            self.headers -= size
            if self.headers < 0:
                raise tarfile.ReadError(f"headers of more than {MAX_HEADERS} bytes")


class _Seeking(_Headers, FileIO):
    """A file of which headers alone are read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begin()

    def read(self, size: int | None = -1, /) -> bytes:
        self.spend(-1 if size is None else size)
        return super().read(size)


class _Forward(_Headers):
    """What tarfile needs of a file, of one that is read once; no more than *limit* bytes, and no large part at once.
    The last block may be read again."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self.file = file
        self.limit = limit
        self.position = 0
        self.last = b""
        self.again = b""
        self.begin()

    def read(self, size: int = -1) -> bytes:
        self.spend(size)
        return self._take(size)

    def _take(self, size: int) -> bytes:
        found, self.again = self.again[:size], self.again[size:]
        while len(found) < size and (block := self.file.read(size - len(found))):
            found += block
        self.position += len(found)
        self.last = (self.last + found)[-tarfile.BLOCKSIZE :]
        self._check(self.position)
        return found

    def seek(self, position: int) -> None:
        self._check(position)
        while position > self.position and self._take(min(position - self.position, SKIP)):
            pass
        if (back := self.position - position) > len(self.last):
            raise tarfile.ReadError("it cannot be read from front to end")
        if back > 0:
            self.again, self.last = self.last[-back:] + self.again, self.last[:-back]
            self.position = position

    def _check(self, position: int) -> None:
        if position > self.limit:
            raise TooLarge(f"it unpacks to more than {self.limit >> 20} MiB")

    def tell(self) -> int:
        return self.position


@contextmanager
def _plain(path: Path) -> Iterator[IO[bytes]]:
    """The content of *path*, decompressed."""
    with path.open("rb") as file:
        start = file.read(6)
        file.seek(0)
        stream: Any = file
        if start.startswith(ZSTD):
            import zstandard

            stream = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        elif start.startswith(b"\x1f\x8b"):
            stream = gzip.GzipFile(fileobj=file)
        elif start.startswith(b"\xfd7zXZ"):
            stream = lzma.LZMAFile(file)  # noqa: SIM115  closed below, as the others
        elif start.startswith(b"BZh"):
            stream = bz2.BZ2File(file)
        try:
            with stream:
                yield stream
        except Exception as error:  # zstandard's own class, without importing it for nothing
            if type(error).__name__ != "ZstdError":
                raise
            raise tarfile.ReadError(str(error)) from error


def _damaged(name: str, why: str, place: Place) -> SpecError:
    return SpecError(f"{name} is no tar archive, or damaged", place=place, why=why, hint="check the file")


def _refused(name: str, member: str, why: str, place: Place) -> SpecError:
    return SpecError(
        f"{name} is refused: member {member!r}", place=place, why=why, hint="make the archive with relative names"
    )
