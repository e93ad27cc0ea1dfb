"""Names of nodes: one file each, with a JSON line for every key that the name has stood for; the last one counts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sfvm import safejson
from sfvm.errors import RepositoryError, UsageError, suggestion
from sfvm.repository.files import listing, sync, wait, write_atomically, writing
from sfvm.repository.manifest import KEY, NAME


class Names:
    """The names of the repository in *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "names"

    def all(self) -> Mapping[str, str]:
        """The current key of every name, sorted by name."""
        found = {name: self.current(name) for name in sorted(listing(self.directory)) if NAME.fullmatch(name)}
        return {name: key for name, key in found.items() if key is not None}

    def current(self, name: str) -> str | None:
        """The key that *name* stands for."""
        lines = self.history(name)
        return lines[-1][1] if lines else None

    def history(self, name: str) -> tuple[tuple[float, str], ...]:
        """When *name* came to stand for which key (seconds since the epoch), oldest first."""
        if not NAME.fullmatch(name):
            return ()
        try:
            with open(f"{self.directory}/{name}", "rb") as file:  # noqa: PTH123  counts: a thousand names
                lines = file.read().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return ()
        found = []
        for line in lines:
            try:
                record = safejson.loads(line)
                if KEY.fullmatch(record["key"]):
                    found.append((float(record["time"]), str(record["key"])))
            except (ValueError, KeyError, TypeError):
                continue  # verify reports a file without any good line
        return tuple(found)

    def point(self, name: str, key: str) -> None:
        """Let *name* stand for *key* from now on. The repository's directories exist.

        :raises RepositoryError: no valid name, or it cannot be written
        """
        if not NAME.fullmatch(name) or not KEY.fullmatch(key):
            raise RepositoryError(f"{name!r} cannot be a node's name", hint="use letters, digits and _ . + -")
        with writing(f"the name {name}", self.root), self._alone():
            history = self.history(name)
            if history and history[-1][1] == key:
                return
            lines = [json.dumps({"time": when, "key": which}) for when, which in (*history, (time.time(), key))]
            write_atomically(self.directory / name, ("\n".join(lines) + "\n").encode(), self.root / "tmp")

    def remove(self, name: str) -> None:
        """Forget *name*.

        :raises UsageError: there is no such name
        """
        path = self.directory / name
        if not NAME.fullmatch(name) or not path.exists():
            raise UsageError(f"no name {name!r} in the repository", hint=suggestion(name, self.all()))
        with writing(f"the name {name}", self.root), self._alone():
            path.unlink(missing_ok=True)
            sync(path.parent)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = wait(self.root / "lock" / "names")
        try:
            yield
        finally:
            lock.release()
