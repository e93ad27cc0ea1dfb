"""Garbage: what no name, no descendant and no running build needs."""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sfvm import qcow2, safejson
from sfvm.downloads.store import Store
from sfvm.errors import RepositoryError, SfvmError
from sfvm.repository.files import Lock, sync, wait, writing
from sfvm.repository.kept import Kept
from sfvm.repository.manifest import KEY
from sfvm.repository.twins import FLAT
from sfvm.repository.work import Work

if TYPE_CHECKING:
    from sfvm.repository.store import Repository

LEFTOVER_AGE = 600.0
"""Seconds after which a temporary file that its process does not touch is a leftover, if that process is gone."""
FOREIGN_AGE = 86400.0
"""The same where no process is known."""

DRAFT_AGE = 7 * 86400.0
"""Seconds after which a download that broke is not continued any more."""
FINISHED_AGE = 7 * 86400.0
"""Seconds after which a finished node that no bundle has used is removed."""

# What sfvm calls its files there: anything else, in a directory that was there before, is not its own.
TEMPORARY = re.compile(r".+\.(?P<pid>[0-9]{1,9})\.[0-9a-f]+|(visit|contents)-[a-z0-9_]{8}", re.DOTALL)
QUARANTINED = re.compile(rf"{KEY.pattern}\..+|name-.+", re.DOTALL)
FINISHED = re.compile(rf"{KEY.pattern}\.[0-9a-f]{{16}}")


@dataclass(frozen=True)
class Removed:
    """What gc removed, or would: *nodes* as (key, name or ""), *work* (unfinished builds) as names or keys, the number
    of all *files*, and the *bytes* that they took on disk."""

    nodes: tuple[tuple[str, str], ...]
    work: tuple[str, ...]
    files: int
    bytes: int

    def __str__(self) -> str:
        return f"{len(self.nodes)} nodes, {len(self.work)} unfinished builds, {self.files} files, {self.bytes} bytes"


def collect(
    repository: Repository, *, dry_run: bool, work_age: float, cancelled: Callable[[], bool] | None = None
) -> Removed:
    """See :meth:`Repository.gc`. Holds ``lock/gc`` alone, so that no lease is taken and nothing is published between
    the decision and the removal. Descendants go before their parents, and a manifest before its overlay: killed at
    any instant, it leaves a smaller repository without damage."""
    if not repository.root.exists():
        return Removed((), (), 0, 0)
    repository.make()
    lock = wait(repository.root / "lock" / "gc", cancelled=cancelled)
    try:
        with writing("what gc changes", repository.root):
            return _Collector(repository, dry_run).run(work_age)
    finally:
        lock.release()


def leased(repository: Repository) -> set[str]:
    """The keys that running processes have leased or are building; leases and locks of dead ones are removed. The
    caller holds ``lock/gc``."""
    found: set[str] = set()
    directory = repository.root / "lock"
    for path in (*_paths(directory / "leases"), *(path for path in _paths(directory) if KEY.fullmatch(path.name))):
        lock = Lock.take(path)
        if lock is not None:
            lock.release(remove=True)
        elif KEY.fullmatch(path.name):
            found.add(path.name)
        else:
            with contextlib.suppress(FileNotFoundError):  # its owner has ended just now
                found.update(_keys(path))
    return found


def _keys(lease: Path) -> list[str]:
    try:
        return list(map(str, safejson.loads(lease.read_bytes())["keys"]))
    except (ValueError, KeyError, TypeError):
        raise RepositoryError(
            f"{lease} is damaged", why="it must say what a running process needs", hint="try again when none runs"
        ) from None


def parent(repository: Repository, key: str) -> str | None:
    """The parent's key, from the manifest, or from the overlay when there is no good manifest."""
    try:
        found = safejson.loads((repository.nodes / f"{key}.json").read_bytes())["parent"]
    except (OSError, ValueError, KeyError, TypeError):
        try:
            found = (qcow2.header(repository.overlay(key)).backing or "")[:64]
        except SfvmError:
            return None
    return found if isinstance(found, str) and KEY.fullmatch(found) else None


def leftovers(repository: Repository) -> list[Path]:
    """What processes that are gone have left in ``tmp/``."""
    now = time.time()
    found = []
    for path in _paths(repository.root / "tmp"):
        if (named := TEMPORARY.fullmatch(path.name)) is None:
            continue
        try:
            age = now - max(path.lstat().st_mtime, *(child.lstat().st_mtime for child in _below(path)), 0.0)
        except FileNotFoundError:
            continue
        pid = named.group("pid")
        if age > FOREIGN_AGE or (pid is not None and age > LEFTOVER_AGE and not _alive(int(pid))):
            found.append(path)
    return sorted(found)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _paths(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _below(path: Path) -> Iterable[Path]:
    return path.rglob("*") if path.is_dir() and not path.is_symlink() else ()


class _Collector:
    """One run, the lock held."""

    def __init__(self, repository: Repository, dry_run: bool) -> None:
        self.repository = repository
        self.dry_run = dry_run
        self.files = 0
        self.bytes = 0
        self.leased = leased(repository)

    def run(self, work_age: float) -> Removed:
        needed = self.needed()
        nodes = self.nodes(needed)
        self.twins(needed, self.finished(needed))
        work = self.work(work_age)
        self.quarantine()
        needed_downloads = self.fetched(needed) | Kept(self.repository.root).all()
        downloads = Store(self.repository.downloads).outdated(needed_downloads)
        for path in (*leftovers(self.repository), *downloads):
            self.remove(path)
        self.drafts()
        return Removed(tuple(nodes), tuple(work), self.files, self.bytes)

    def drafts(self) -> None:
        """Downloads that were never finished (:mod:`sfvm.sources.fetch`)."""
        for path in _paths(self.repository.downloads / "partial"):
            with contextlib.suppress(FileNotFoundError):  # it has just been finished
                if time.time() - path.stat().st_mtime > DRAFT_AGE:
                    self.remove(path)

    def needed(self) -> set[str]:
        needed: set[str] = set()
        for start in {*self.repository.names().values(), *self.leased}:
            key: str | None = start
            while key is not None and key not in needed:
                needed.add(key)
                key = parent(self.repository, key)
        return needed

    def fetched(self, needed: set[str]) -> set[str]:
        """The digests of what was downloaded for nodes that stay: with it they can be built again."""
        digests: set[str] = set()
        for key in needed:
            with contextlib.suppress(RepositoryError):  # a damaged manifest is verify's concern
                digests.update(fetched.sha256 for fetched in self.repository.manifest(key).fetched)
        return digests

    def nodes(self, needed: set[str]) -> list[tuple[str, str]]:
        manifests = {path.stem for path in _paths(self.repository.nodes) if path.suffix == ".json"}
        overlays = {path.name[:-6] for path in _paths(self.repository.layers) if path.name.endswith(".qcow2")}
        doomed = [key for key in sorted(manifests | overlays) if KEY.fullmatch(key) and key not in needed]
        described = {key: self.describe(key) for key in doomed}
        doomed.sort(key=lambda key: described[key], reverse=True)
        for key in doomed:
            self.remove(self.repository.nodes / f"{key}.json")
        if doomed and not self.dry_run:
            sync(self.repository.nodes)
        for key in doomed:
            self.remove(self.repository.overlay(key))
            self.remove(self.repository.log_path(key))
        return [(key, described[key][1]) for key in doomed if key in manifests]

    def describe(self, key: str) -> tuple[int, str]:
        try:
            found = safejson.loads((self.repository.nodes / f"{key}.json").read_bytes())
            return int(found["depth"]), str(found["name"])
        except (OSError, ValueError, KeyError, TypeError):
            return 1 << 30, ""  # nothing builds on what has no manifest

    def twins(self, needed: set[str], finished: list[Path]) -> None:
        """Flattened twins are kept as long as an overlay names them, or a running build may."""
        used = set(self.leased)
        overlays = (*map(self.repository.overlay, needed), *(path / "filesystem.qcow2" for path in finished))
        for path in overlays:
            try:
                backing = posixpath.basename(qcow2.header(path).backing or "")
            except SfvmError:
                continue  # never built, or damaged: verify tells
            if backing.endswith(FLAT):
                used.add(backing[:64])
        for path in _paths(self.repository.layers):
            if ".flat." in path.name and path.name[:64] not in used:
                self.remove(path)

    def work(self, work_age: float) -> list[str]:
        removed = []
        for path in _paths(self.repository.root / "work"):
            if path.name in self.leased or not KEY.fullmatch(path.name):
                continue
            work = Work(path, path.name, "")
            journal = path / "journal"
            age = time.time() - journal.stat().st_mtime if journal.exists() else float("inf")
            if age > work_age or self.repository.built(path.name):
                removed.append(work.called or path.name)
                self.remove(path)
        return removed

    def quarantine(self) -> None:
        """The manifests of nodes that are still named serve as their history until they are built again."""
        current = set(self.repository.names().values())
        for path in _paths(self.repository.root / "quarantine"):
            if not QUARANTINED.fullmatch(path.name):
                continue
            key = path.name[:64]
            if path.suffix != ".json" or key not in current or self.repository.built(key):
                self.remove(path)

    def finished(self, needed: set[str]) -> list[Path]:
        """What bundling has prepared is kept while its node is there, and as long as it is of use now and then; what
        stays is returned."""
        kept = []
        for path in _paths(self.repository.root / "finished"):
            key = path.name[:64]
            if not FINISHED.fullmatch(path.name):
                continue
            if key not in self.leased and (key not in needed or time.time() - path.stat().st_mtime > FINISHED_AGE):
                self.remove(path)
            else:
                kept.append(path)
        return kept

    def remove(self, path: Path) -> None:
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
        inside = [child.lstat() for child in _below(path)]
        self.files += 1 + len(inside)
        self.bytes += sum(entry.st_blocks * 512 for entry in (status, *inside))
        if self.dry_run:
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
