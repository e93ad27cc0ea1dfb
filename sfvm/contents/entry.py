"""A file of any type, as it is compared and told. Paths are bytes relative to the root, which is ``.``."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Paths = Mapping[bytes, "Entry"]

KINDS: Mapping[int, str] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


@dataclass(frozen=True)
class Entry:
    """One name. *mode* has the permissions alone, *size* is in bytes and of regular files only, *links* the number of
    names (1 for directories, whose number follows from what is in them), *target* what a symlink says, *device* a
    device's numbers, *xattrs* the values in hexadecimal, *digest* the SHA-256 where it was wanted.

    Not compared: the *inode* (0: unknown), and the bytes on the *disk*.
    """

    kind: str
    mode: int = 0
    owner: int = 0
    group: int = 0
    size: int = 0
    links: int = 1
    target: bytes = b""
    device: str = ""
    xattrs: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""
    inode: int = field(default=0, compare=False)
    disk: int = field(default=0, compare=False)

    @property
    def regular(self) -> bool:
        return self.kind == "file"

    def to_json(self) -> dict[str, Any]:
        """For programs; what does not apply to the kind is left out."""
        optional = {
            "size": self.size if self.regular else None,
            "links": self.links if self.links > 1 else None,
            "target": os.fsdecode(self.target) if self.kind == "symlink" else None,
            "device": self.device or None,
            "xattrs": dict(self.xattrs) or None,
            "sha256": self.digest or None,
        }
        there = {name: value for name, value in optional.items() if value is not None}
        return {"type": self.kind, "mode": f"{self.mode:04o}", "owner": self.owner, "group": self.group, **there}


def entry_of(
    mode: int, owner: int, group: int, size: int, links: int, device: int, inode: int, disk: int, target: bytes
) -> Entry:
    """The entry that lstat(2) tells: *mode* with the type, *device* as st_rdev."""
    kind = KINDS.get(stat.S_IFMT(mode), "unknown")
    return Entry(
        kind,
        stat.S_IMODE(mode),
        owner,
        group,
        size if kind == "file" else 0,
        1 if kind == "directory" else links,
        target,
        f"{os.major(device)}:{os.minor(device)}" if kind.endswith("device") else "",
        inode=inode,
        disk=disk,
    )


def shown(path: bytes) -> str:
    """A *path* as text, absolute."""
    return "/" if path == b"." else "/" + os.fsdecode(path)
