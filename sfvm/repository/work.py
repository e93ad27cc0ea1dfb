"""One unfinished build: its checkpoints, and the journal that tells which of them are good."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sfvm import qcow2, safejson
from sfvm.downloads.fetched import Fetched, distinct
from sfvm.repository.files import listing, sync, writing
from sfvm.repository.manifest import KEY

JOURNAL = "journal"


@dataclass
class State:
    """What a journal says. *numbers* counts the overlay names given out; *checkpoints* are (step key, file name),
    frozen, each the backing file of the next; *fetched* is what was downloaded for each of them; *failed* is the
    overlay of a failed step, the error, and the node's facts; *finished* is the last checkpoint's name and what else
    the node's manifest needs."""

    begun: dict[str, Any] | None = None
    checkpoints: list[tuple[str | None, str]] = field(default_factory=list)
    fetched: list[list[Any]] = field(default_factory=list)
    numbers: int = 0
    failed: tuple[str, str, dict[str, str]] | None = None
    finished: tuple[str, dict[str, Any]] | None = None


class Work:
    """The directory of one unfinished build. Whoever uses it holds the lock of its key.

    An overlay's name is never given out twice: a QEMU that outlived its sfvm may still write to the old one.
    """

    def __init__(self, directory: Path, key: str, node: str) -> None:
        self.directory = directory
        self.key = key
        self.node = node
        self._state = read_journal(directory)

    @property
    def called(self) -> str:
        """The node's name as the journal has it."""
        begun = self._state.begun
        return str(begun["node"]) if begun else self.node

    @property
    def base_key(self) -> str | None:
        begun = self._state.begun
        return begun["base_key"] if begun else None

    @property
    def backing_key(self) -> str | None:
        """The key of the parent below the first checkpoint."""
        begun = self._state.begun
        return begun["backing_key"] if begun else None

    @property
    def backing_origin(self) -> str | None:
        """Which build of the parent it was."""
        begun = self._state.begun
        return begun["backing_origin"] if begun else None

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The frozen overlays, oldest first."""
        return tuple(self.directory / name for _, name in self._state.checkpoints)

    @property
    def done(self) -> tuple[str, ...]:
        """The keys of the steps that are done."""
        return tuple(key for key, _ in self._state.checkpoints if key is not None)

    @property
    def records(self) -> tuple[tuple[str | None, str], ...]:
        """The checkpoints as (step key or None for the base, file name)."""
        return tuple(self._state.checkpoints)

    @property
    def fetched(self) -> tuple[Fetched, ...]:
        """What was downloaded for all checkpoints."""
        return distinct(Fetched.from_json(one) for some in self._state.fetched for one in some)

    @property
    def failed(self) -> Path | None:
        """The overlay that the failed step left behind."""
        failed = self._state.failed
        path = self.directory / failed[0] if failed else None
        return path if path is not None and path.exists() else None

    @property
    def message(self) -> str | None:
        """The error of the failed step."""
        return self._state.failed[1] if self._state.failed else None

    @property
    def facts(self) -> Mapping[str, str]:
        """The facts of the node whose step failed."""
        return self._state.failed[2] if self._state.failed else {}

    @property
    def finished(self) -> dict[str, Any] | None:
        """What :meth:`finish` was told, when all that is left to do is to seal the last checkpoint."""
        finished = self._state.finished
        return finished[1] if finished and self.checkpoints and self.checkpoints[-1].name == finished[0] else None

    def last_good(self) -> Path | None:
        """The newest checkpoint, from which the build goes on."""
        return self.checkpoints[-1] if self._state.checkpoints else None

    def begin(
        self,
        base_key: str,
        backing: Path | None,
        backing_key: str | None,
        disk: int,
        *,
        backing_origin: str | None = None,
    ) -> None:
        """Start from nothing over *backing*, the sealed parent with *backing_key* (None: a root of *disk* bytes). A
        parent that is still being sealed has no manifest yet: *backing_origin* tells which build of it it will be.

        :raises RepositoryError: the journal cannot be written
        """
        if backing_origin is None and backing_key is not None:
            backing_origin = self._origin(backing_key)
        self._append(
            {
                "event": "begin",
                "key": self.key,
                "node": self.node,
                "base_key": base_key,
                "backing": os.path.relpath(backing, self.directory) if backing is not None else None,
                "backing_key": backing_key,
                "backing_origin": backing_origin,
                "disk": disk,
                "numbers": self._state.numbers,
            }
        )

    def _origin(self, key: str) -> str | None:
        manifest = self.directory.parent.parent / "nodes" / f"{key}.json"
        try:
            origin = safejson.loads(manifest.read_bytes())["origin"]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # its loss is noticed when this work would be resumed
        return str(origin)

    def next_overlay(self) -> Path:
        """The name for the next overlay: never given out before."""
        number = self._state.numbers
        self._append({"event": "overlay", "number": number}, durable=False)
        return self.directory / f"{number:04d}.qcow2"

    def record(self, step_key: str | None, overlay: Path, fetched: Sequence[Fetched] = ()) -> None:
        """The state after the step *step_key* (None: after the base) is complete in *overlay*, frozen from now on;
        *fetched* is what was downloaded since the last one.

        :raises RepositoryError: it cannot be written; the checkpoint does not count then
        """
        with writing("a checkpoint", self.directory):
            sync(overlay)
        self._append(_done(step_key, overlay.name, [one.to_json() for one in fetched]))

    def finish(self, step_key: str, overlay: Path, told: dict[str, Any]) -> None:
        """The node is complete in *overlay*, frozen from now on: *step_key* was its last step, and *told* is what else
        its manifest needs. A later build need not start an appliance to seal it.

        :raises RepositoryError: it cannot be written
        """
        with writing("a checkpoint", self.directory):
            sync(overlay)
        self._append(
            _done(step_key, overlay.name, []),
            {"event": "finished", "overlay": overlay.name, "told": told},
        )

    def fail(self, overlay: Path, message: str, facts: Mapping[str, str] = MappingProxyType({})) -> None:
        """A step of the node, which has *facts*, failed in *overlay*, which nothing has open any more: keep it for
        looking at."""
        self.mend(overlay)
        self._append({"event": "failed", "overlay": overlay.name, "message": message, "facts": dict(facts)})

    def mend(self, *more: Path) -> None:
        """Make every checkpoint (and the overlays *more* on top of them) name the one below it as its sibling, and
        the first one the sealed parent: while the build ran, it may have been backed by a file of another node's
        work, with the same content. No process may have them open.

        :raises SfvmError: qemu-img fails
        """
        begun = self._state.begun
        below = self.directory / begun["backing"] if begun and begun["backing"] else None
        for overlay in (*self.checkpoints, *more):
            if below is not None:
                qcow2.rebase(overlay, below)
            below = overlay

    def tidy(self) -> None:
        """Remove what is neither a checkpoint nor the journal, and forget the failed step."""
        if not self.directory.is_dir():
            return
        kept = {JOURNAL, *(name for _, name in self._state.checkpoints)}
        if self._state.failed is not None:
            self._append({"event": "forget"})
        for path in self.directory.iterdir():
            if path.name not in kept:
                _remove(path)

    def reset(self) -> None:
        """Give up all checkpoints; numbers go on."""
        if self.directory.is_dir():
            self._append({"event": "reset"})
            self.tidy()

    def rebacked(self, backing: Path) -> None:
        """The parent is now called *backing* (its flattened twin, or it again)."""
        name = os.path.relpath(backing, self.directory)
        if self._state.begun is not None and self._state.begun["backing"] != name:
            self._append({**self._state.begun, "event": "backing", "backing": name})

    def take(self, other: Work, count: int) -> None:
        """Move the first *count* checkpoints of *other*, whose lock is held too, here, as the only ones; the rest of
        *other* is removed.

        :raises RepositoryError: the journal cannot be written
        """
        assert other._state.begun is not None  # it has checkpoints
        records = zip(other.records, other._state.fetched, strict=True)
        moves = [
            (key, name, f"{self._state.numbers + number:04d}.qcow2", fetched)
            for number, ((key, name), fetched) in enumerate(records)
        ][:count]
        begun = {**other._state.begun, "event": "begin", "key": self.key, "node": self.node}
        begun["numbers"] = self._state.numbers + len(moves)
        with writing("checkpoints", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            for _, old, new, _ in moves:
                (other.directory / old).rename(self.directory / new)
            sync(self.directory)
        self._append(begun, *(_done(key, new, fetched) for key, _, new, fetched in moves))
        other.discard()

    def discard(self) -> None:
        """Remove the whole directory; at once, as far as anyone who looks for work can see."""
        if not self.directory.is_dir():
            return
        (self.directory / JOURNAL).unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)  # what remains is found by gc
        self._state = State(numbers=self._state.numbers)

    def _append(self, *records: dict[str, Any], durable: bool = True) -> None:
        with writing("the journal", self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            journal = self.directory / JOURNAL
            new = not journal.exists()
            with journal.open("ab") as file:
                before = file.tell()
                try:
                    # The line feed before ends a line that a crash has torn.
                    file.write(b"".join(b"\n" + json.dumps(record).encode() + b"\n" for record in records))
                    file.flush()
                    if durable:
                        os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), before)
                    raise
            if new:
                sync(self.directory)
                sync(self.directory.parent)
        for record in records:
            apply(self._state, record)


def _done(step_key: str | None, overlay: str, fetched: list[Any]) -> dict[str, Any]:
    return {"event": "done", "step": step_key, "overlay": overlay, "fetched": fetched}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)  # what remains is found the next time
    else:
        path.unlink(missing_ok=True)


def read_journal(directory: Path) -> State:
    """The state of the build in *directory*; a torn line is ignored, and so is what a missing file follows from."""
    state = State()
    try:
        content = (directory / JOURNAL).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return state
    for line in content.splitlines():
        try:
            record = safejson.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            apply(state, record)
    there = list(state.checkpoints)
    for index, (_, name) in enumerate(there):
        if not (directory / name).exists():
            del state.checkpoints[index:], state.fetched[index:]
            break
    return state


def unfinished(directory: Path, node: str) -> tuple[Work, ...]:
    """The unfinished builds below *directory* of nodes called *node*, whatever their inputs; the last one first."""
    found: list[tuple[float, str]] = []
    for key in filter(KEY.fullmatch, listing(directory)):
        with contextlib.suppress(FileNotFoundError):  # it has no journal, or it is over
            found.append(((directory / key / JOURNAL).stat().st_mtime, key))
    works = (Work(directory / key, key, "") for _, key in sorted(found, reverse=True))
    return tuple(work for work in works if work.called == node)


def apply(state: State, record: dict[str, Any]) -> None:
    """Add one journal record to *state*."""
    match record.get("event"):
        case "begin":
            state.begun = record
            state.checkpoints.clear()
            state.fetched.clear()
            state.failed = state.finished = None
            state.numbers = max(state.numbers, record["numbers"])
        case "backing":
            state.begun = record
        case "overlay":
            state.numbers = record["number"] + 1
        case "done":
            state.checkpoints.append((record["step"], record["overlay"]))
            state.fetched.append(record.get("fetched", []))
        case "finished":
            state.finished = (record["overlay"], record["told"])
        case "failed":
            state.failed = (record["overlay"], record["message"], record.get("facts", {}))
        case "forget":
            state.failed = None
        case "reset":
            state.checkpoints.clear()
            state.fetched.clear()
            state.failed = state.finished = None


def common(steps: Sequence[tuple[str | None, str]], keys: Sequence[str]) -> int:
    """How many of the checkpoints *steps*, in order, belong to a node whose steps have *keys*: the base (None) and
    the longest prefix."""
    expected = list(keys)
    for count, (key, _) in enumerate(steps):
        if key is None and count == 0:
            expected.insert(0, "")
        elif count >= len(expected) or key != expected[count]:
            return count
    return len(steps)
