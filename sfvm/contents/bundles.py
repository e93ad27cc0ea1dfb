"""Two bundles, compared: what their manifests tell, and the files of their tars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm import safejson
from sfvm.contents import comparison, tars
from sfvm.contents.comparison import Blob, Files
from sfvm.errors import SfvmError
from sfvm.events import Listener, Preparing
from sfvm.guest import Package
from sfvm.repository.manifest import KEY

MANIFEST = "manifest.json"
NODE = "${name}"
"""Stands for the node's name in an artifact's, as format specs have it: bundles of two nodes can be compared."""


@dataclass(frozen=True)
class Bundle:
    """The bundle in *directory*, of the node with *name* and *key*. *artifacts* are by name."""

    directory: Path
    name: str
    key: str
    format: str
    packages: tuple[Package, ...]
    artifacts: Mapping[str, Blob]

    @property
    def size(self) -> int:
        """Of all artifacts, in bytes."""
        return sum(blob.size for blob in self.artifacts.values())

    @property
    def blobs(self) -> Mapping[str, Blob]:
        """The artifacts by a name that does not depend on the node's."""
        return {self._general(name): blob for name, blob in self.artifacts.items()}

    def path(self, general: str) -> Path:
        """The file of an artifact of :attr:`blobs`.

        :raises SfvmError: it is not there, or not as large as it was
        """
        name = next(name for name in self.artifacts if self._general(name) == general)
        path = self.directory / name
        if not path.is_file() or path.stat().st_size != self.artifacts[name].size:
            raise SfvmError(
                f"{path} is damaged", why=f"it has not the size that {MANIFEST} tells", hint="make the bundle again"
            )
        return path

    def _general(self, name: str) -> str:
        rest = name.removeprefix(self.name)
        return f"{NODE}{rest}" if rest != name and not rest[:1].isalnum() else name


def opened(directory: Path) -> Bundle:
    """The bundle in *directory*.

    :raises SfvmError: it is none
    """
    try:
        told = safejson.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        artifacts = {name: _blob(artifact) for name, artifact in told["artifacts"].items()}
        packages = tuple(Package(*map(str, package)) for package in told["packages"])
        if any(Path(name).name != name for name in artifacts):
            raise ValueError("an artifact that is elsewhere")
        if not KEY.fullmatch(told["key"]):
            raise ValueError("no key")
        return Bundle(directory, str(told["node"]), told["key"], str(told["format"]), packages, artifacts)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"{MANIFEST} is not what sfvm writes"
        raise SfvmError(
            f"{directory} is no bundle", why=why, hint="`sfvm bundle` makes one, and prints its directory"
        ) from error


def _blob(artifact: Mapping[str, Any]) -> Blob:
    size, digest = artifact["size"], artifact["sha256"]
    if type(size) is not int or size < 0:
        raise ValueError("no size")
    return Blob(size, str(digest))


def compare(
    before: Bundle, after: Bundle, listener: Listener
) -> tuple[Files | None, dict[bytes, str], tuple[str, ...]]:
    """The files that differ in tars that both have, and unified diffs of texts among them; None when there is no tar to
    look at, and notes.

    :raises SfvmError: a tar is damaged
    """
    common = [name for name in before.blobs if name in after.blobs and _readable(name)]
    if not common:
        return None, {}, (_without_files(before, after),)
    found = Files()
    texts: dict[bytes, str] = {}
    for name in common:
        if before.blobs[name] != after.blobs[name]:
            paths = before.path(name), after.path(name)
            what = f"reading {' and '.join(map(str, paths))}"
            listener(Preparing(what))
            entries = [tars.entries(path) for path in paths]
            some = comparison.files(*entries)
            found = Files(found.added + some.added, found.removed + some.removed, found.changed + some.changed)
            wanted = comparison.in_the_open(comparison.texts(some.changed), *entries)
            if wanted:
                sides = zip(paths, entries, strict=True)
                texts |= comparison.diffs(*(tars.contents(path, {w: mine[w] for w in wanted}) for path, mine in sides))
            listener(Preparing(what, done=True))
    return found, texts, ()


def _readable(name: str) -> bool:
    return name.endswith(tars.SUFFIXES) and not name.endswith(".oci.tar")


def _without_files(before: Bundle, after: Bundle) -> str:
    keys = f"{before.key[:12]} {after.key[:12]}"
    return f"files are compared in tars alone; those of the nodes: sfvm diff {keys}"
