"""Which downloads gc keeps, however long nobody uses them: those of locks, one file for each locked node's name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sfvm.repository.files import listing, sync, write_atomically, writing
from sfvm.repository.manifest import KEY, NAME


class Kept:
    """What is kept in the repository *root*: the SHA-256 of each content, a line each in ``locks/<name>``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "locks"

    def set(self, name: str, digests: Iterable[str]) -> None:
        """Keep what has these *digests* for the locked node *name*, and no more what was kept for it.

        :raises RepositoryError: it cannot be written
        """
        with writing(f"the lock of {name}", self.root):
            self.directory.mkdir(parents=True, exist_ok=True)
            content = "".join(f"{digest}\n" for digest in sorted(set(digests)))
            write_atomically(self.directory / name, content.encode("ascii"), self.root / "tmp")

    def drop(self, name: str) -> None:
        """Keep nothing for *name*.

        :raises RepositoryError: it cannot be removed
        """
        path = self.directory / name
        if path.exists():
            with writing(f"the lock of {name}", self.root):
                path.unlink(missing_ok=True)
                sync(self.directory)

    def all(self) -> frozenset[str]:
        """The digests that are kept for any name.

        :raises OSError: one of the files cannot be read
        """
        names = [name for name in listing(self.directory) if NAME.fullmatch(name)]
        words = [word for name in names for word in (self.directory / name).read_text("ascii", "replace").split()]
        return frozenset(word for word in words if KEY.fullmatch(word))
