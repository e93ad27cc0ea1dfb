"""The directory that a repository is: made once, with the version of its layout, and never where anything else is."""

from __future__ import annotations

from pathlib import Path

from sfvm.errors import RepositoryError
from sfvm.repository.files import write_atomically, writing

VERSION = 1
FORMAT = "format"
MADE = ("layers", "nodes", "names", "work", "logs", "lock/leases", "tmp")
OWN = frozenset({*MADE, "lock", "locks", "refreshed", "proposed", "finished", "downloads", "quarantine"})
"""The directories that there may be."""


def known(root: Path) -> bool:
    """Whether *root* is a repository.

    :raises RepositoryError: it cannot be read, or is of another version
    """
    try:
        text = (root / FORMAT).read_text(encoding="ascii", errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise RepositoryError(f"the repository {root} cannot be read", why=error.strerror) from error
    if text != str(VERSION):
        raise RepositoryError(
            f"the repository {root} is of format {text[:20]!r}",
            why=f"this sfvm knows format {VERSION}",
            hint="use a newer sfvm, or another repository with --repository DIR",
        )
    return True


def make(root: Path) -> None:
    """Make *root* a repository, if it is none yet.

    :raises RepositoryError: it cannot be made, or holds something else
    """
    with writing("the repository", root):
        if not known(root):
            _refuse_foreign(root)
        for name in MADE:
            (root / name).mkdir(parents=True, exist_ok=True)
        if not known(root):
            write_atomically(root / FORMAT, f"{VERSION}\n".encode(), root / "tmp")


def _refuse_foreign(root: Path) -> None:
    """:raises RepositoryError: there is what no repository has, even when sfvm was killed while it made it"""
    for path in sorted(root.iterdir()) if root.exists() else ():
        if path.name in (FORMAT, "lost+found"):  # another process has just made it; a file system of its own
            continue
        if path.name not in OWN or not path.is_dir():
            raise RepositoryError(
                f"{root} is no repository",
                why=f"it holds {path.name!r}, which is not sfvm's, and garbage is collected there",
                hint="name another directory with --repository",
            )
