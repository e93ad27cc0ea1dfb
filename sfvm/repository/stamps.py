"""Refreshes on purpose: one small file for each name, whose content is an input of the node's key from then on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from sfvm.errors import RepositoryError
from sfvm.repository.files import listing, sync, write_atomically, writing
from sfvm.repository.manifest import NAME

_STAMP = re.compile(r"[0-9TZ:.-]{1,40}")


def now() -> str:
    """A stamp: this moment (RFC 3339, UTC, to the microsecond)."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Stamps:
    """The stamps in the directory *kind* of the repository *root*: ``refreshed``, or ``proposed`` for those that a
    trial was built with."""

    def __init__(self, root: Path, kind: str = "refreshed") -> None:
        self.root = root
        self.directory = root / kind

    def all(self) -> Mapping[str, str]:
        """The stamp of every name that has one.

        :raises RepositoryError: one cannot be read, or is none: to leave it out would change keys unnoticed
        """
        return {name: self._read(name) for name in sorted(listing(self.directory)) if NAME.fullmatch(name)}

    def _read(self, name: str) -> str:
        path = self.directory / name
        try:
            found = path.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read", why=error.strerror) from error
        if not _STAMP.fullmatch(found):
            raise RepositoryError(f"{path} is damaged", why="it holds no time", hint=f"sfvm refresh {name}")
        return found

    def set(self, name: str, stamp: str | None) -> None:
        """Let *stamp* (None: nothing) be that of *name*.

        :raises RepositoryError: no valid name, or it cannot be written
        """
        if not NAME.fullmatch(name):
            raise RepositoryError(f"{name!r} cannot be a node's name")
        path = self.directory / name
        with writing(f"the refresh of {name}", self.root):
            if stamp is not None:
                self.directory.mkdir(parents=True, exist_ok=True)
                write_atomically(path, f"{stamp}\n".encode(), self.root / "tmp")
            elif path.exists():
                path.unlink()
                sync(self.directory)
