"""The repository: sealed nodes, their names, and the work of unfinished builds."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfvm import qcow2, safejson
from sfvm.cancellation import NEVER, Cancellation
from sfvm.errors import RepositoryError, SfvmError, UsageError, suggestion
from sfvm.repository import adoption, collection, place, twins, verification
from sfvm.repository.collection import Removed
from sfvm.repository.files import holder, keep, listing, sync, wait, write_atomically, writing
from sfvm.repository.kept import Kept
from sfvm.repository.manifest import Manifest
from sfvm.repository.names import Names
from sfvm.repository.quarantine import set_aside_strangers
from sfvm.repository.twins import FLAT
from sfvm.repository.verification import Problem
from sfvm.repository.work import Work, unfinished

THRESHOLD = 64
"""So many files a chain may have before a node gets a flattened twin."""
WORK_AGE = 14 * 86400.0
"""Seconds for which gc leaves the work of an unfinished build alone."""


class Repository:
    """The repository in the directory *root*, which is made when something is first written.

    Readers never lock. A node is built when its manifest is there, for that is written last. Safe for several
    processes and threads. All names inside are relative: the directory can be moved. It holds::

        format                    the version of this layout
        layers/<key>.qcow2        sealed overlays, 0444; <key>.flat.qcow2 (and .flat.sha256): flattened twins
        nodes/<key>.json          manifests
        names/<name>              what a name has stood for, a JSON line each
        refreshed/<name>          when it was refreshed on purpose; locks/<name>/: downloads that its locks keep
        finished/<key>.<digest>/  nodes made ready for a layout, for the next bundle
        work/<key>/               checkpoints and journal of an unfinished build
        logs/<key>.log, downloads/sha256/, downloads/url/, quarantine/, tmp/
        lock/<key>                who builds it; lock/leases/: what gc must keep; lock/gc: shared to publish

    :raises RepositoryError: it is of a newer version
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.layers = self.root / "layers"
        self.nodes = self.root / "nodes"
        self._names = Names(self.root)
        self._made = place.known(self.root)

    # What is there

    def built(self, key: str) -> bool:
        """Whether the node is there, complete: its manifest, and its overlay with the recorded size."""
        try:  # without pathlib: it counts for a thousand nodes
            size = os.stat(f"{self.layers}/{key}.qcow2").st_size  # noqa: PTH116
            with open(f"{self.nodes}/{key}.json", "rb") as file:  # noqa: PTH123
                return bool(safejson.loads(file.read())["size"] == size)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def built_keys(self) -> frozenset[str]:
        """The keys that have a manifest and an overlay, from one look at each directory; sizes are not compared."""
        manifests = {name[:-5] for name in listing(self.nodes) if name.endswith(".json")}
        return frozenset(manifests & {name[:-6] for name in listing(self.layers) if name.endswith(".qcow2")})

    def manifest(self, key: str) -> Manifest:
        """The manifest of a built node.

        :raises RepositoryError: there is none, or it is damaged
        """
        path = self.nodes / f"{key}.json"
        try:
            return Manifest.parse(path.read_bytes())
        except FileNotFoundError:
            raise RepositoryError(f"node {key[:12]} is not in the repository", why=f"there is no {path}") from None
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read", why=error.strerror) from error
        except ValueError as error:
            raise RepositoryError(
                f"{path} is damaged", why=str(error), hint="sfvm verify --repair, then build the node again"
            ) from None

    def overlay(self, key: str) -> Path:
        """The sealed overlay of *key*, there or not."""
        return self.layers / f"{key}.qcow2"

    def files(self, key: str) -> tuple[Path, ...]:
        """The chain of files of a built node: its overlay first, then each backing file.

        :raises RepositoryError: one is missing or damaged
        """
        found = [self.overlay(key)]
        while True:
            try:
                backing = qcow2.header(found[-1]).backing
            except SfvmError as error:
                raise RepositoryError(
                    f"the chain of node {key[:12]} is broken", why=f"{error.what}: {error.why}", hint="sfvm verify"
                ) from error
            if backing is None:
                return tuple(found)
            path = self.layers / backing
            if path.parent != self.layers or path in found:
                raise RepositoryError(
                    f"the chain of node {key[:12]} is broken", why=f"it names {backing!r}", hint="sfvm verify"
                )
            found.append(path)

    def backing(self, key: str, threshold: int = THRESHOLD, *, stop: Cancellation = NEVER) -> Path:
        """What a child of *key* uses as backing file: its overlay, or its flattened twin (made now if need be) when
        the child's chain would have more than *threshold* files.

        :raises RepositoryError: the node is missing or damaged, or there is no room for a twin
        :raises Cancelled: *stop* asks for it while a twin is made
        """
        files = self.files(key)
        if len(files) < threshold:
            return files[0]
        return self.flatten(key, stop=stop)

    def flatten(self, key: str, *, stop: Cancellation = NEVER) -> Path:
        """The flattened twin of *key*: the same content in one file; made when it is missing.

        :raises RepositoryError: there is no room for it
        :raises Cancelled: *stop* asks for it
        """
        return twins.flatten(self, key, stop)

    def flat_digest(self, key: str) -> Path:
        """The file that holds the SHA-256 of the flattened twin of *key*."""
        return self.layers / f"{key}.flat.sha256"

    # Names

    def names(self) -> Mapping[str, str]:
        """The current key of every name, sorted by name."""
        return self._names.all()

    def current(self, name: str) -> str | None:
        """The key that *name* stands for."""
        return self._names.current(name)

    def history(self, name: str) -> tuple[tuple[float, str], ...]:
        """When *name* came to stand for which key (seconds since the epoch), oldest first."""
        return self._names.history(name)

    def last(self, name: str) -> Mapping[str, Any] | None:
        """The manifest, as JSON, of the node that *name* stands for; of a node set aside as damaged, too."""
        key = self.current(name)
        for directory in (self.nodes, self.root / "quarantine") if key else ():
            try:
                return Manifest.parse((directory / f"{key}.json").read_bytes()).to_json()
            except (FileNotFoundError, ValueError):
                continue
        return None

    def resolve(self, name_or_key: str) -> str:
        """The key that a name, a key, or the unique beginning (six digits or more) of a key stands for.

        :raises UsageError: nothing or more than one node is meant
        """
        key = self.current(name_or_key)
        if key is not None:
            return key
        if 6 <= len(name_or_key) <= 64 and all(digit in "0123456789abcdef" for digit in name_or_key):
            found = sorted(key for key in self.built_keys() if key.startswith(name_or_key))
            if len(found) == 1:
                return found[0]
            if found:
                raise UsageError(
                    f"{name_or_key} is the beginning of {len(found)} keys",
                    hint="give more digits: " + ", ".join(key[:16] for key in found[:4]),
                )
        raise UsageError(
            f"no node {name_or_key!r} in the repository",
            why=f"{self.root} has neither this name nor a key that begins with it",
            hint=suggestion(name_or_key, self.names()) or f"sfvm build {name_or_key}",
        )

    def point(self, name: str, key: str) -> None:
        """Let *name* stand for *key* from now on; what it stood for before stays in its history.

        :raises RepositoryError: no valid name, or it cannot be written
        """
        self.make()
        self._names.point(name, key)

    def remove(self, name: str) -> None:
        """Forget *name*, and keep no downloads for its lock. Its node stays as long as a descendant has a name;
        :meth:`gc` frees what nothing needs.

        :raises UsageError: there is no such name
        """
        self._names.remove(name)
        Kept(self.root).drop(name)

    # Building

    @contextmanager
    def lock(
        self, key: str, on_wait: Callable[[str], None], cancelled: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """The right to build *key*, across processes and threads. *on_wait* is told once who holds it.

        :raises LockCancelled: *cancelled* became true during the wait
        """
        self.make()
        path = self.root / "lock" / key
        lock = wait(path, on_wait=lambda: on_wait(holder(path)), cancelled=cancelled)
        try:
            lock.describe(key=key)
            yield
        finally:
            lock.release(remove=True)

    @contextmanager
    def lease(self, keys: Iterable[str]) -> Iterator[None]:
        """Keep gc from *keys*, their ancestors and their work, until the end of the context or of the process."""
        self.make()
        path = self.root / "lock" / "leases" / f"{os.getpid()}-{secrets.token_hex(6)}"
        with self.sharing():
            lease = wait(path)
            lease.describe(keys=sorted(set(keys)))
        try:
            yield
        finally:
            lease.release(remove=True)

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """A short moment in which gc must not decide what to remove."""
        lock = wait(self.root / "lock" / "gc", shared=True)
        try:
            yield
        finally:
            lock.release()

    def work(self, key: str, node: str) -> Work:
        """The unfinished build of *key*; the caller holds its lock."""
        return Work(self.root / "work" / key, key, node)

    def unfinished(self, name: str) -> tuple[Work, ...]:
        """The unfinished builds of nodes called *name*: of any arguments, lock or earlier spec; the last one first."""
        return unfinished(self.root / "work", name)

    def adopt(self, base_key: str, step_keys: Sequence[str], into: Work) -> int:
        """Bring *into* (its lock is held) to the furthest state that is known: its own, or that of another unfinished
        build that began alike, whose checkpoints are moved. Return how many of the steps are done.

        Checkpoints on a parent that has been built anew since do not count: their bytes do not fit any more.

        :raises SfvmError: the journal cannot be written, or qemu-img fails
        """
        return adoption.adopt(self, base_key, step_keys, into)

    def publish(self, key: str, sealed: Path, manifest: Manifest) -> None:
        """Put the overlay *sealed* (on this file system; it is moved) and its *manifest* into the repository. Once
        this returns, the node survives a power cut. A node that is there already stays as it is.

        :raises RepositoryError: they do not fit together, the parent is not there, or it cannot be written
        """
        self.make()
        origin = manifest.origin or manifest.digest
        with self.sharing(), writing(f"node {manifest.name}", self.root):
            if self.built(key):
                sealed.unlink()
                return
            parent = self.manifest(manifest.parent) if manifest.parent else None
            if parent is not None and manifest.parent_origin not in (None, parent.origin):
                raise RepositoryError(
                    "it was built on other bytes of its parent than are here",
                    node=manifest.name,
                    why=f"{parent.summary} was put there meanwhile",
                    hint="run the same command again",
                )
            complete = replace(manifest, origin=origin, parent_origin=parent.origin if parent else None)
            header = qcow2.header(sealed)
            allowed = {None} if parent is None else {f"{parent.key}.qcow2", f"{parent.key}{FLAT}"}
            if key != manifest.key or header.backing not in allowed or sealed.stat().st_size != manifest.size:
                raise RepositoryError(
                    f"the sealed overlay of {manifest.name} does not fit its manifest",
                    why=f"key {key[:12]}, backing file {header.backing!r}, {sealed.stat().st_size} bytes",
                )
            set_aside_strangers(self, key, origin)
            sealed.chmod(0o444)
            sync(sealed)
            self.layers.mkdir(exist_ok=True)
            sealed.rename(self.overlay(key))
            sync(self.layers)
            write_atomically(self.nodes / f"{key}.json", complete.dump(), self.root / "tmp")

    def log_path(self, key: str) -> Path:
        """The log of the node's build."""
        return self.root / "logs" / f"{key}.log"

    def temporary(self) -> Path:
        """A directory for files that nobody misses: gc empties it of what belongs to no running process."""
        self.make()
        return self.root / "tmp"

    def require_space(self, wanted: int, what: str) -> None:
        """Make sure that *wanted* bytes are free for *what*.

        :raises RepositoryError: they are not
        """
        there = next(path for path in (self.root, *self.root.parents) if path.exists())
        free = shutil.disk_usage(there).free
        if free < wanted:
            raise RepositoryError(
                f"not enough room for {what}",
                why=f"it needs about {_bytes(wanted)}, and {self.root} has {_bytes(free)} left",
                hint="sfvm gc frees what nothing needs; or use another disk with --repository DIR or SFVM_HOME",
            )

    # Downloads

    def download(self, sha256: str) -> Path:
        """Where the download with this SHA-256 is kept, there or not."""
        return self.downloads / "sha256" / sha256

    @property
    def downloads(self) -> Path:
        """The directory of the download cache (:mod:`sfvm.downloads.store`)."""
        return self.root / "downloads"

    def store_download(self, source: Path, sha256: str) -> Path:
        """Keep a copy of *source*, whose content must have this SHA-256; return it.

        :raises RepositoryError: it has another, or cannot be copied
        """
        target = self.download(sha256)
        if not target.exists():
            with writing("a download", self.root):
                keep(source, sha256, target, self.temporary())
        return target

    # Care

    def gc(
        self, *, dry_run: bool = False, work_age: float = WORK_AGE, cancelled: Callable[[], bool] | None = None
    ) -> Removed:
        """Remove what no name, no descendant and no running build needs, and work older than *work_age* seconds.

        :raises RepositoryError: something cannot be removed
        """
        return collection.collect(self, dry_run=dry_run, work_age=work_age, cancelled=cancelled)

    def verify(
        self, *, repair: bool = False, progress: Callable[[str, float], None] = lambda what, fraction: None
    ) -> tuple[Problem, ...]:
        """Everything that is wrong. *repair* sets damaged nodes and their descendants aside in ``quarantine/`` (their
        names stay: the next build makes them anew) and removes strays. *progress*: what is looked at, 0 to 1."""
        return verification.verify(self, repair=repair, progress=progress)

    def export(self, key: str, file: Path) -> None:
        """Write the node and its ancestors into one *file* (see :mod:`sfvm.repository.transfer`).

        :raises RepositoryError: a node is missing or damaged, or the file cannot be written
        """
        from sfvm.repository import transfer  # needs the tree, which takes a while to import

        with self.lease([key]):
            transfer.export(self, key, file)

    def import_(self, file: Path) -> tuple[str, ...]:
        """Take in the nodes of an exported *file*, each verified before it is used; return their names, root first.

        :raises RepositoryError: the file is damaged, not to be trusted, or does not fit what is here
        """
        from sfvm.repository import transfer

        return transfer.import_(self, file)

    # The directory itself

    def make(self) -> None:
        """Make the directories, once.

        :raises RepositoryError: they cannot be made, or the directory holds something else
        """
        if self._made:
            return
        place.make(self.root)
        self._made = True


def _bytes(count: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
