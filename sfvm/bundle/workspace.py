"""Where bundles are made before they are complete: hidden beside where they go, locked while it is used."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sfvm.repository.files import sync

PREFIX = ".sfvm-bundle-"
MARK = ".sfvm-is-making-a-bundle"
"""A file that says whose a directory is: what is named like ours may be the user's."""


@contextlib.contextmanager
def workspace(output: Path, removing: contextlib.AbstractContextManager[None] | None = None) -> Iterator[Path]:
    """A directory in *output* that is gone at the end; *removing* is around its removal. What a killed process left
    there goes too: a directory is in use as long as a process holds its lock (flock(2))."""
    with _locked(output):  # nobody sweeps between the making of the directory and its lock
        _sweep(output)
        directory = Path(tempfile.mkdtemp(dir=output.absolute(), prefix=PREFIX))
        held = os.open(directory, os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)
        (directory / MARK).touch()
    try:
        yield directory
    finally:
        with removing or contextlib.nullcontext():
            _remove(directory)  # what remains is swept by the next one
        os.close(held)


def put(directory: Path, target: Path, work: Path) -> None:
    """Give the complete *directory* its name; an older bundle of that name goes away with *work*. Two processes that
    make the same bundle end with one of the two, whole."""
    with _locked(target.parent):
        if target.exists():
            target.rename(work / f"{target.name}.old")
        directory.rename(target)
        sync(target.parent)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Alone with *directory*, for a moment."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove(directory: Path) -> None:
    """The mark at the end, so that what is left of it is known as ours."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != MARK:
                path.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def _sweep(output: Path) -> None:
    for left in output.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # somebody has just ended there, or it is no directory, or another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (left / MARK).exists() or not any(left.iterdir()):
                _remove(left)
        except BlockingIOError:
            continue  # somebody works there
        finally:
            os.close(descriptor)
