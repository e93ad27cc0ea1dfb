"""SHA-256 of what specs refer to: files and directory trees of the host, each read once per process.

A file is read again only when its path, inode, size or modification time changed.
"""

from __future__ import annotations

import hashlib
import os
import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

from sfvm.errors import Place, SpecError

Tree = dict[str, dict[str, Any]]
"""Relative path to what is there: ``{"mode": "0644", "sha256": …}`` for a file, ``{"mode": "0755"}`` for a directory,
``{"target": …}`` for a symlink; sorted by path."""


def file_digest(path: Path, place: Place | None = None) -> str:
    """The SHA-256 of a regular file's content, in hexadecimal.

    :raises SpecError: when it cannot be read or is no regular file; *place* says which element refers to it
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SpecError(f"{path} is not a regular file", place=place, hint="name a file")
        return _content(str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise _unreadable(path, error, place) from error


def tree_digest(path: Path, place: Place | None = None) -> Tree:
    """Everything below the directory *path*: names, permission bits, symlink targets, contents. Symlinks are not
    followed: they are copied as they are. The mode of *path* itself, owners and times do not count.

    :raises SpecError: for a device, socket or FIFO, or what cannot be read
    """
    found: Tree = {}
    pending = [path]
    try:
        while pending:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    here = Path(entry.path)
                    found[here.relative_to(path).as_posix()] = _entry(here, entry.stat(follow_symlinks=False), place)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(here)
    except OSError as error:
        raise _unreadable(path, error, place) from error
    return dict(sorted(found.items()))


def _entry(path: Path, status: os.stat_result, place: Place | None) -> dict[str, Any]:
    if stat.S_ISLNK(status.st_mode):
        return {"target": str(path.readlink())}
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    if stat.S_ISDIR(status.st_mode):
        return {"mode": mode}
    if stat.S_ISREG(status.st_mode):
        return {"mode": mode, "sha256": _content(str(path), status.st_ino, status.st_size, status.st_mtime_ns)}
    raise SpecError(f"{path} is no file, directory or symlink", place=place, hint="remove it from the copied directory")


@lru_cache(maxsize=1 << 16)
def _content(path: str, inode: int, size: int, modified: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unreadable(path: Path, error: OSError, place: Place | None) -> SpecError:
    return SpecError(f"{error.filename or path} cannot be read", place=place, why=error.strerror)
