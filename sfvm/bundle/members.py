"""The tar of a node's files, read member by member: memory does not grow with it."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sfvm.bundle.compression import Sink
from sfvm.errors import BundleError, Place

BLOCK = 1 << 20
END = bytes(1024)
"""How a tar ends (tar(5))."""
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


def copy(archive: Path, sink: Sink, keep: Callable[[str], bool], progress: Callable[[float], None]) -> None:
    """Write the members of *archive* whose names *keep* wants, as they are, byte for byte."""
    with reading(archive) as tar, archive.open("rb") as source:
        for member in members(tar, progress):
            if not keep(member.name):
                continue
            source.seek(member.offset)
            left = tar.offset - member.offset
            while left and (block := source.read(min(left, BLOCK))):
                sink.write(block)
                left -= len(block)
    sink.write(END)


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

    :raises BundleError: a file has one; *what* is what cannot keep it
    """
    with reading(archive) as tar:
        names = [f"/{member.name}" for member in members(tar, progress) if has_acl(member)]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        raise BundleError(
            f"{what} cannot store the ACLs of the node's files",
            place=place,
            why="there are some at " + ", ".join(names[:SHOWN]) + more,
            hint='--set acls=drop leaves them out (acls="drop"); setfacl -b in the node removes them',
        )
