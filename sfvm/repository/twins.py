"""Flattened twins: a node's content in one file, for children whose chain of files would be too long."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfvm import qcow2
from sfvm.cancellation import Cancellation
from sfvm.repository.files import sync, temporary, wait, write_atomically, writing

if TYPE_CHECKING:
    from sfvm.repository.store import Repository

FLAT = ".flat.qcow2"
"""The end of a flattened twin's name."""


def flatten(repository: Repository, key: str, stop: Cancellation) -> Path:
    """See :meth:`Repository.flatten`. Several processes make it once."""
    twin = repository.layers / f"{key}{FLAT}"
    if twin.exists():
        return twin
    repository.make()
    lock = wait(repository.root / "lock" / f"flat-{key}", cancelled=stop.asked)
    try:
        if not twin.exists():
            _make(repository, key, twin, stop)
        return twin
    finally:
        lock.release(remove=True)


def _make(repository: Repository, key: str, twin: Path, stop: Cancellation) -> None:
    draft = temporary(repository.temporary(), twin.name)
    try:
        qcow2.convert(repository.overlay(key), draft, stop=stop)
        digest = qcow2.digest(draft, stop=stop)
        with writing("a flattened node", repository.layers):
            draft.chmod(0o444)
            sync(draft)
            write_atomically(repository.flat_digest(key), digest.encode(), repository.temporary())
            draft.rename(twin)
            sync(repository.layers)
    finally:
        draft.unlink(missing_ok=True)
