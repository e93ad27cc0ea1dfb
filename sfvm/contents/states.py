"""What can be compared with what: nodes, bundles, lock files. One kind tells more of itself than another; what both
tell is compared."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm import document
from sfvm.config import Settings
from sfvm.contents import bundles, comparison, nodes
from sfvm.contents.bundles import Bundle
from sfvm.contents.comparison import Blob, Comparison
from sfvm.errors import UsageError
from sfvm.events import Listener
from sfvm.guest import Package
from sfvm.lock import files
from sfvm.lock.files import SUFFIX
from sfvm.repository import Manifest, Repository

KINDS = f"name a node, the directory of a bundle, or a lock file (*{SUFFIX})"


@dataclass(frozen=True)
class State:
    """One side of a comparison: a *kind*, the *name* and *key* of the node that it is (or is of), *size* in bytes, and
    *artifacts*, None where there are none. *source* knows its files, *path* is where it lies outside of the
    repository."""

    kind: str
    name: str
    key: str
    packages: Sequence[Package]
    size: int
    source: Manifest | Bundle | None = None
    artifacts: Mapping[str, Blob] | None = None
    path: Path | None = None

    @property
    def label(self) -> str:
        return f"{self.name} ({self.path or self.key[:12]})"

    def to_json(self) -> dict[str, Any]:
        where = {"path": str(self.path)} if self.path else {}
        return {"kind": self.kind, "name": self.name, "key": self.key, **where}


def find(word: str, repository: Repository) -> State:
    """What *word* means: a node (a name, a key, the beginning of one), the directory of a bundle, or a lock file (by
    the end of its name). A word with a slash is a path; else a node goes before a directory of that name.

    :raises UsageError: nothing
    :raises SfvmError: it is damaged
    """
    path = Path(word)
    if not word:
        raise UsageError("an empty word names nothing", hint=KINDS)
    if word.endswith(SUFFIX):
        return _lock(path)
    if os.sep in word or word in (".", ".."):
        return _bundle(word)
    try:
        return _node(repository.manifest(repository.resolve(word)))
    except UsageError:
        if path.exists():
            return _bundle(word)
        raise


def _node(manifest: Manifest) -> State:
    packages = [Package(*package) for package in manifest.packages]
    return State("node", manifest.name, manifest.key, packages, manifest.size, manifest)


def _bundle(word: str) -> State:
    directory = Path(word)
    if not directory.is_dir():
        raise UsageError(f"there is no bundle {word!r}", why="it is no directory", hint=KINDS)
    found = bundles.opened(directory)
    return State("bundle", found.name, found.key, found.packages, found.size, found, found.blobs, directory)


def _lock(path: Path) -> State:
    if not path.is_file():
        raise UsageError(f"there is no lock file {str(path)!r}", hint="sfvm lock makes one")
    lock = files.parse(document.parse(path))
    contents = [content for section in lock.sections for content in section.contents]
    packages = [content.package for content in contents if content.package is not None]
    blobs = {
        content.url if content.package is None else _named(content.package): Blob(content.size, content.sha256)
        for content in contents
    }
    last = lock.sections[-1]
    return State("lock", last.node, last.key, packages, sum(b.size for b in blobs.values()), None, blobs, path)


def _named(package: Package) -> str:
    """A package of a lock, wherever it is fetched from."""
    return " ".join((package.name, package.version, package.architecture)).strip()


def compare(
    before: State,
    after: State,
    repository: Repository,
    settings: Settings,
    listener: Listener,
    *,
    packages_only: bool = False,
) -> Comparison:
    """What the two differ in. Files of nodes are looked at in an appliance; *packages_only* needs none.

    :raises SfvmError: one of them cannot be read, or the appliance cannot be started
    """
    installed = comparison.packages(before.packages, after.packages)
    if packages_only:
        return Comparison(installed)
    blobs = None
    if before.kind == after.kind and before.artifacts is not None and after.artifacts is not None:
        blobs = comparison.artifacts(before.artifacts, after.artifacts)
    sizes = {before.kind: (before.size, after.size)} if before.kind == after.kind else {}
    one, other = before.source, after.source
    if isinstance(one, Manifest) and isinstance(other, Manifest):
        changes, texts = nodes.compare(one, other, repository, settings, listener)
        return Comparison(installed, None, changes, texts, sizes)
    if isinstance(one, Bundle) and isinstance(other, Bundle):
        found, diffs, notes = bundles.compare(one, other, listener)
        return Comparison(installed, blobs, found, diffs, sizes, notes)
    if before.kind == after.kind:
        # Packages that are new, gone, or of another version are told as such.
        named = {_named(package) for package in (*before.packages, *after.packages)}
        rest = tuple(one for one in blobs or () if (one.before and one.after) or one.name not in named)
        return Comparison(installed, rest, sizes=sizes)
    note = f"a {before.kind} and a {after.kind}: only their packages are compared"
    return Comparison(installed, notes=(note,))
