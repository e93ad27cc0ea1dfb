"""The files of a tar, with or without compression, read member by member."""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sfvm import archives
from sfvm.contents.entry import Entry, Paths
from sfvm.errors import SfvmError

SUFFIXES = (".tar", ".tar.gz", ".tar.xz", ".tar.zst")
BLOCK = 1 << 20
KINDS = {
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "character device",
    tarfile.BLKTYPE: "block device",
    tarfile.FIFOTYPE: "fifo",
}
XATTR = "SCHILY.xattr."
ACLS = {"SCHILY.acl.access": "system.posix_acl_access", "SCHILY.acl.default": "system.posix_acl_default"}
"""What star and GNU tar call them in PAX headers."""


def entries(path: Path) -> dict[bytes, Entry]:
    """Every member by its path. A hard link has the entry of what it names; ACLs stand among the xattrs, as text. The
    inode of a regular file is where in the tar its content begins.

    :raises SfvmError: it is no tar, or damaged
    """
    found: dict[bytes, Entry] = {}
    firsts: dict[bytes, bytes] = {}
    with _opened(path) as tar:
        for member in archives.members(tar):
            name = _name(member.name)
            if member.islnk():
                target = _name(member.linkname)
                if target in found:
                    found[name], firsts[name] = found[target], firsts.get(target, target)
            else:
                firsts.pop(name, None)
                found[name] = _entry(tar, member)
    names = Counter(firsts.values())
    return {
        name: replace(entry, links=1 + names[first]) if (first := firsts.get(name, name)) in names else entry
        for name, entry in found.items()
    }


def contents(path: Path, wanted: Paths) -> dict[bytes, bytes]:
    """The contents of regular files among the :func:`entries` of *path*, small ones.

    :raises SfvmError: it is no tar, or damaged
    """
    # Not by name: a hard link has none of its own, and a later member may have taken that of what it names.
    sizes = {entry.inode: entry.size for entry in wanted.values() if entry.regular}
    found: dict[int, bytes] = {}
    with _opened(path) as tar:
        for member in archives.members(tar):
            if member.isreg() and sizes.get(member.offset_data) == member.size:
                found[member.offset_data] = b"".join(_blocks(tar, member))
    return {name: found[entry.inode] for name, entry in wanted.items() if entry.inode in found}


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with archives.opened(path) as tar:
            yield tar
    except (*archives.DAMAGE, archives.TooLarge) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> SfvmError:
    return SfvmError(f"{path} is no tar archive, or damaged", why=why, hint="make the bundle again")


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Entry:
    kind = "file" if member.isreg() else KINDS.get(member.type, "unknown")
    digest = hashlib.sha256()
    for block in _blocks(tar, member):
        digest.update(block)
    return Entry(
        kind,
        member.mode & 0o7777,
        member.uid,
        member.gid,
        member.size if kind == "file" else 0,
        target=member.linkname.encode("utf-8", errors="surrogateescape") if kind == "symlink" else b"",
        device=f"{member.devmajor}:{member.devminor}" if kind.endswith("device") else "",
        xattrs=_xattrs(member),
        digest=digest.hexdigest() if kind == "file" else "",
        inode=member.offset_data if kind == "file" else 0,
    )


def _xattrs(member: tarfile.TarInfo) -> dict[str, str]:
    found = {
        key.removeprefix(XATTR): value.encode("utf-8", errors="surrogateescape").hex()
        for key, value in member.pax_headers.items()
        if key.startswith(XATTR)
    }
    return found | {ACLS[key]: value for key, value in member.pax_headers.items() if key in ACLS}


def _blocks(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[bytes]:
    """The content of a regular member, which is the last one read."""
    if member.isreg() and (file := tar.extractfile(member)) is not None:
        while block := file.read(BLOCK):
            yield block


def _name(name: str) -> bytes:
    """``./usr/bin/`` is ``usr/bin``, the root is ``.``."""
    return (name.removeprefix("./").strip("/") or ".").encode("utf-8", errors="surrogateescape")
