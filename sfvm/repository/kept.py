"""Which downloads gc keeps, however long nobody uses them: those of locks, until their node's name is forgotten."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from sfvm.repository.files import listing, sync, write_atomically, writing
from sfvm.repository.manifest import KEY, NAME


class Kept:
    """What is kept in the repository *root*: the SHA-256 of each content, a line each in ``locks/<name>/<lock>``, where
    *lock* is the SHA-256 of the lock file's path: a node may have several. Before, ``locks/<name>`` was one file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "locks"

    def set(self, name: str, lock: Path, digests: Iterable[str]) -> None:
        """Keep what has these *digests* for the file *lock* of the node *name*, and no more what was kept for it.

        :raises RepositoryError: it cannot be written
        """
        directory = self.directory / name
        path = directory / hashlib.sha256(os.fsencode(lock.resolve())).hexdigest()
        with writing(f"the lock of {name}", self.root):
            if directory.is_file():
                directory.unlink()
            content = "".join(f"{digest}\n" for digest in sorted(set(digests)))
            write_atomically(path, content.encode("ascii"), self.root / "tmp")

    def drop(self, name: str) -> None:
        """Keep nothing for *name*.

        :raises RepositoryError: it cannot be removed
        """
        path = self.directory / name
        if path.exists():
            with writing(f"the lock of {name}", self.root):
                if path.is_file():
                    path.unlink()
                else:
                    shutil.rmtree(path)
                sync(self.directory)

    def all(self) -> frozenset[str]:
        """The digests that are kept for any name.

        :raises OSError: one of the files cannot be read
        """
        found: set[str] = set()
        for name in filter(NAME.fullmatch, listing(self.directory)):
            path = self.directory / name
            locks = [path] if path.is_file() else [path / lock for lock in listing(path) if KEY.fullmatch(lock)]
            for lock in locks:
                found.update(filter(KEY.fullmatch, lock.read_text("ascii", "replace").split()))
        return frozenset(found)
