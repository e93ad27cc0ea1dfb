"""The tar of a node's files, read member by member: memory does not grow with it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sfvm.bundle.compression import Sink
from sfvm.bundle.stage import Unfit
from sfvm.errors import Place

BLOCK = 1 << 20
END = bytes(1024)
"""How a tar ends (tar(5))."""
NAME, LINKNAME, LENGTH = 0, 157, 100
CHECKSUM, PREFIX = slice(148, 156), slice(345, 500)
"""Where fields are in a header (POSIX, ustar)."""
SHOWN = 3
BASE_ENTRIES = 3
"""user, group and other: an access ACL of no more says what the mode says (acl(5))."""


@contextmanager
def reading(archive: Path) -> Iterator[tarfile.TarFile]:
    """The *archive*, open for :func:`members`."""
    # Of an empty archive, too: a layer in which nothing was changed.
    with tarfile.open(archive, "r:", encoding="utf-8", errors="surrogateescape") as tar:
        yield tar


def members(tar: tarfile.TarFile, progress: Callable[[float], None]) -> Iterator[tarfile.TarInfo]:
    """The members of *tar* in order. Each may be read while it is the last; names have no ``./``, the root is ``.``.
    *progress* gets 0 to 1."""
    assert tar.fileobj is not None and tar.name is not None
    total = max(Path(str(tar.name)).stat().st_size, 1)
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else it keeps all; typeshed leaves it out
        member.name = relative(member.name)
        if member.islnk():
            member.linkname = relative(member.linkname)
        progress(member.offset / total)
        yield member


def copy(
    archive: Path,
    sink: Sink,
    keep: Callable[[tarfile.TarInfo], bool],
    progress: Callable[[float], None],
    below: str = "",
) -> None:
    """Write the members of *archive* that *keep* wants, byte for byte; or, with *below*, in that directory."""
    with reading(archive) as tar, archive.open("rb") as source:
        for member in members(tar, progress):
            if not keep(member):
                continue
            source.seek(member.offset)
            left = tar.offset - member.offset
            if below:
                head = source.read(member.offset_data - member.offset)
                sink.write(moved(head, member, below))
                left -= len(head)
            while left and (block := source.read(min(left, BLOCK))):
                sink.write(block)
                left -= len(block)
    sink.write(END)


def moved(head: bytes, member: tarfile.TarInfo, below: str) -> bytes:
    """The headers *head* of *member*, put into the directory *below*: everything else in them stays as it is, which
    Python's tarfile does not do for xattrs that are no text.

    Source: POSIX, pax, "ustar Interchange Format" and "pax Extended Header".
    """
    block, records = bytearray(head[-tarfile.BLOCKSIZE :]), _records(head[: -tarfile.BLOCKSIZE])
    names = [(NAME, b"path", f"{below}/{member.name}/" if member.isdir() else f"{below}/{member.name}")]
    if member.islnk():
        names.append((LINKNAME, b"linkpath", f"{below}/{member.linkname}"))
    for place, key, text in names:
        name = text.replace("/./", "/").encode("utf-8", errors="surrogateescape")
        records.pop(key, None)
        if len(name) > LENGTH:
            records[key] = name
        block[place : place + LENGTH] = name[:LENGTH].ljust(LENGTH, b"\0")
    block[PREFIX] = bytes(PREFIX.stop - PREFIX.start)
    block[CHECKSUM] = b" " * 8
    block[CHECKSUM] = b"%06o\0 " % sum(block)
    return _extended(records, int(member.mtime)) + block


def _records(head: bytes) -> dict[bytes, bytes]:
    """The records of an extended header: each is its own length, a blank, ``key=value``, a newline."""
    found: dict[bytes, bytes] = {}
    data = head[tarfile.BLOCKSIZE :]
    while data and data[0]:
        length = int(data[: data.index(b" ")])
        key, _, value = data[data.index(b" ") + 1 : length - 1].partition(b"=")
        found[key] = value
        data = data[length:]
    return found


def _extended(records: dict[bytes, bytes], time: int) -> bytes:
    if not records:
        return b""
    content = b""
    for key, value in records.items():
        rest = b" " + key + b"=" + value + b"\n"
        length = len(rest) + 1
        while len(b"%d" % length + rest) != length:
            length += 1
        content += b"%d" % length + rest
    member = tarfile.TarInfo("PaxHeaders")
    member.type, member.size, member.mtime = tarfile.XHDTYPE, len(content), max(time, 0)
    return member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def relative(name: str) -> str:
    """A member's *name* below the root: ``./usr/bin/`` is ``usr/bin``, ``./`` is ``.``."""
    return name.removeprefix("./").strip("/") or "."


def has_acl(member: tarfile.TarInfo) -> bool:
    """Whether it has an ACL that says more than its mode (star's PAX headers, as GNU tar writes them)."""
    access = member.pax_headers.get("SCHILY.acl.access", "")
    entries = [line for line in access.replace(",", "\n").splitlines() if line.strip()]
    return len(entries) > BASE_ENTRIES or bool(member.pax_headers.get("SCHILY.acl.default"))


def refuse_acls(archive: Path, what: str, place: Place, progress: Callable[[float], None]) -> None:
    """For formats that cannot store POSIX ACLs.

    :raises Unfit: a file has one; *what* is what cannot keep it
    """
    with reading(archive) as tar:
        names = [f"/{member.name}" for member in members(tar, progress) if has_acl(member)]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise Unfit(
            f"{what} cannot store the ACLs of the node's files",
            place=place,
            why="there are ACLs at " + ", ".join(names[:SHOWN]) + more,
            hint='--set acls=drop leaves them out (acls="drop"); setfacl -b in the node removes them',
        )
