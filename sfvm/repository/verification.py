"""Proof that the repository is whole: every byte, chain, manifest and name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sfvm import qcow2
from sfvm.errors import SfvmError
from sfvm.repository.collection import leased, leftovers
from sfvm.repository.files import Lock, wait, writing
from sfvm.repository.manifest import KEY, NAME, Manifest
from sfvm.repository.quarantine import move, set_aside

if TYPE_CHECKING:
    from sfvm.repository.store import Repository


@dataclass(frozen=True)
class Problem:
    """Something wrong. *kind* is ``manifest``, ``overlay``, ``parent``, ``twin``, ``name`` or ``stray``; *path* the
    file; *key* and *node* (its name) the node concerned; *serious* is False for what an interrupted process leaves and
    the next command cleans up; *repaired* whether it is put right."""

    kind: str
    path: Path
    message: str
    key: str | None = None
    node: str | None = None
    serious: bool = True
    repaired: bool = False

    def __str__(self) -> str:
        subject = f"node {self.node} {self.key[:12]}" if self.node and self.key else str(self.path)
        return f"{subject}: {self.message}" + (" (repaired)" if self.repaired else "")


def verify(repository: Repository, *, repair: bool, progress: Callable[[str, float], None]) -> tuple[Problem, ...]:
    """See :meth:`Repository.verify`."""
    if not repository.root.exists():
        return ()
    with repository.lease(_keys(repository)):
        problems = _Verifier(repository, progress).run()
    return _repair(repository, problems) if repair and problems else tuple(problems)


def _keys(repository: Repository) -> list[str]:
    return sorted(path.stem for path in _files(repository.nodes) if KEY.fullmatch(path.stem))


def _files(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


class _Verifier:
    """One look at everything; changes nothing."""

    def __init__(self, repository: Repository, progress: Callable[[str, float], None]) -> None:
        self.repository = repository
        self.progress = progress
        self.problems: list[Problem] = []
        self.manifests: dict[str, Manifest] = {}
        self.damaged: set[str] = set()

    def run(self) -> list[Problem]:
        for path in _files(self.repository.nodes):
            self.manifest(path)
        ordered = sorted(self.manifests.values(), key=lambda manifest: manifest.depth)
        total = sum(manifest.size for manifest in ordered) or 1
        done = 0
        for manifest in ordered:
            self.progress(manifest.summary, done / total)
            self.node(manifest)
            done += manifest.size
        self.progress("", 1.0)
        self.layers()
        self.names()
        for path in leftovers(self.repository):
            self.problems.append(Problem("stray", path, "left by a process that is gone", serious=False))
        return self.problems

    def damage(self, kind: str, path: Path, message: str, key: str) -> None:
        manifest = self.manifests.get(key)
        self.problems.append(Problem(kind, path, message, key, manifest.name if manifest else None))
        self.damaged.add(key)

    def manifest(self, path: Path) -> None:
        if not KEY.fullmatch(path.stem) or path.suffix != ".json":
            self.problems.append(Problem("stray", path, "no manifest", serious=False))
            return
        try:
            found = Manifest.parse(path.read_bytes())
            if found.key != path.stem:
                raise ValueError(f"it is of the key {found.key[:12]}")
        except FileNotFoundError:
            return  # removed meanwhile
        except (OSError, ValueError) as error:
            self.damage("manifest", path, f"the manifest is damaged: {error}", path.stem)
        else:
            self.manifests[found.key] = found

    def node(self, manifest: Manifest) -> None:
        key, path = manifest.key, self.repository.overlay(manifest.key)
        if manifest.parent is not None:
            parent = self.manifests.get(manifest.parent)
            if parent is None or manifest.parent in self.damaged:
                self.damage("parent", path, f"its parent {manifest.parent_name} is damaged or missing", key)
            elif parent.origin != manifest.parent_origin:
                self.damage("parent", path, f"its parent {parent.name} was built anew with other bytes", key)
            elif parent.depth + 1 != manifest.depth:
                self.damage("manifest", path, f"depth {manifest.depth} on a parent of depth {parent.depth}", key)
        try:
            size = path.stat().st_size
            if size != manifest.size:
                self.damage("overlay", path, f"the overlay has {size} bytes, not {manifest.size}", key)
                return
            header = qcow2.require_plain(path)
            allowed = [f"{manifest.parent}.qcow2", f"{manifest.parent}.flat.qcow2"] if manifest.parent else [None]
            if header.backing not in allowed:
                self.damage("overlay", path, f"the overlay names the backing file {header.backing!r}", key)
            elif qcow2.digest(path) != manifest.digest:
                self.damage("overlay", path, "the overlay's bytes have changed (sha256 differs)", key)
            else:
                qcow2.check(path)
        except FileNotFoundError:
            self.damage("overlay", path, "the overlay is missing", key)
        except OSError as error:
            self.damage("overlay", path, f"the overlay cannot be read: {error.strerror}", key)
        except SfvmError as error:
            self.damage("overlay", path, f"{error.what}: {error.why}", key)
        else:
            if header.backing is not None and header.backing.endswith(".flat.qcow2"):
                self.twin(self.repository.layers / header.backing, manifest)

    def twin(self, path: Path, child: Manifest) -> None:
        key = path.name[:64]
        try:
            wrong = qcow2.digest(path) != self.repository.flat_digest(key).read_text(encoding="ascii")
        except (OSError, ValueError):
            wrong = True
        if wrong and not any(problem.path == path for problem in self.problems):
            message = f"the flattened twin below {child.name} is missing or damaged"
            self.problems.append(Problem("twin", path, message, key, child.parent_name))

    def layers(self) -> None:
        """Overlays without a manifest, and what is no overlay at all."""
        for path in _files(self.repository.layers):
            key, rest = path.name[:64], path.name[64:]
            known = key in self.manifests or key in self.damaged or self.repository.built(key)
            if known and rest in (".qcow2", ".flat.qcow2", ".flat.sha256"):
                continue
            if KEY.fullmatch(key) and _locked(self.repository, key):
                continue  # being published
            self.problems.append(Problem("stray", path, "belongs to no node", serious=False))

    def names(self) -> None:
        for path in _files(self.repository.root / "names"):
            history = self.repository.history(path.name) if NAME.fullmatch(path.name) else ()
            if not history:
                self.problems.append(Problem("name", path, "no valid name or no key in it"))
                continue
            key = history[-1][1]
            if key not in self.manifests and key not in self.damaged and not self.repository.built(key):
                aside = (self.repository.root / "quarantine" / f"{key}.json").exists()
                why = "its node is set aside as damaged" if aside else f"it stands for {key[:12]}, which is not here"
                message = f"{why}; `sfvm build {path.name}` makes it anew"
                self.problems.append(Problem("name", path, message, key, path.name, serious=not aside))


def _locked(repository: Repository, key: str) -> bool:
    path = repository.root / "lock" / key
    if not path.exists():
        return False
    lock = Lock.take(path)
    if lock is None:
        return True
    lock.release(remove=True)
    return False


def _repair(repository: Repository, problems: list[Problem]) -> tuple[Problem, ...]:
    """Put right what can be, alone with the repository; what a running process uses is left to a later run."""
    lock = wait(repository.root / "lock" / "gc")
    try:
        with writing("repairs", repository.root):
            used = leased(repository)
            done = [_put_right(repository, problem, used) for problem in reversed(problems)]
    finally:
        lock.release()
    twins = [problem for problem in problems if problem.kind == "twin" and problem.key]
    for problem in twins:
        assert problem.key is not None  # filtered above
        if repository.built(problem.key):
            try:
                repository.flatten(problem.key)
            except SfvmError as error:
                done = [replace(p, repaired=False, message=error.render()) if p == problem else p for p in done]
    return tuple(reversed(done))


def _put_right(repository: Repository, problem: Problem, used: set[str]) -> Problem:
    if problem.key in used:
        return replace(problem, message=f"{problem.message}; in use by a running sfvm, repair it later")
    match problem.kind:
        case "manifest" | "overlay" | "parent":
            assert problem.key is not None  # these concern a node
            set_aside(repository, problem.key)
        case "twin":
            problem.path.unlink(missing_ok=True)
        case "stray":
            _remove(problem.path)
        case "name" if problem.key is None:
            move(problem.path, repository.root / "quarantine" / f"name-{problem.path.name}")
        case _:
            return problem  # only a build can
    return replace(problem, repaired=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
