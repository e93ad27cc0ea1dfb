"""What two states differ in, as values. Pure."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sfvm.contents.entry import Entry, Paths, shown
from sfvm.guest import Package

SMALL, CONFIGURATION = 64 << 10, 256 << 10
"""So many bytes a text may have to be compared line by line; and one below /etc."""
LINES = 5_000
"""So many lines: what difflib takes grows with their square."""


@dataclass(frozen=True)
class Changed:
    """One that is in both, and differs in what *differs* names (fields of :class:`Entry`, ``content``)."""

    path: bytes
    before: Entry
    after: Entry
    differs: tuple[str, ...]


@dataclass(frozen=True)
class Files:
    """Names that are only in the second, only in the first, and in both but not equal; sorted by path."""

    added: tuple[tuple[bytes, Entry], ...] = ()
    removed: tuple[tuple[bytes, Entry], ...] = ()
    changed: tuple[Changed, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def to_json(self) -> dict[str, Any]:
        def one(path: bytes, entry: Entry) -> dict[str, Any]:
            return {"path": shown(path), **entry.to_json()}

        return {
            "added": [one(*item) for item in self.added],
            "removed": [one(*item) for item in self.removed],
            "changed": [
                {
                    "path": shown(item.path),
                    "differs": list(item.differs),
                    "before": item.before.to_json(),
                    "after": item.after.to_json(),
                }
                for item in self.changed
            ],
        }


@dataclass(frozen=True)
class Upgrade:
    """A package with other versions; there may be several of one name (kernels)."""

    name: str
    architecture: str
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Packages:
    """Packages that are only in the second, only in the first, and in both in other versions; sorted."""

    added: tuple[Package, ...] = ()
    removed: tuple[Package, ...] = ()
    changed: tuple[Upgrade, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def to_json(self) -> dict[str, Any]:
        def one(package: Package) -> dict[str, Any]:
            return {"name": package.name, "version": package.version, "architecture": package.architecture}

        return {
            "added": [one(package) for package in self.added],
            "removed": [one(package) for package in self.removed],
            "changed": [
                {
                    "name": change.name,
                    "architecture": change.architecture,
                    "before": list(change.before),
                    "after": list(change.after),
                }
                for change in self.changed
            ],
        }


def packages(before: Iterable[Package], after: Iterable[Package]) -> Packages:
    """What became of the packages. One of the same name for another architecture is another package."""
    old, new = _versions(before), _versions(after)
    return Packages(
        added=tuple(Package(n, version, a) for n, a in sorted(new.keys() - old.keys()) for version in new[n, a]),
        removed=tuple(Package(n, version, a) for n, a in sorted(old.keys() - new.keys()) for version in old[n, a]),
        changed=tuple(
            Upgrade(n, a, old[n, a], new[n, a])
            for n, a in sorted(old.keys() & new.keys())
            if old[n, a] != new[n, a]
        ),
    )  # fmt: skip


def _versions(found: Iterable[Package]) -> dict[tuple[str, str], tuple[str, ...]]:
    groups = itertools.groupby(sorted(set(found)), key=lambda package: (package.name, package.architecture))
    versions: dict[tuple[str, str], set[str]] = {}
    for which, members in groups:
        versions.setdefault(which, set()).update(package.version for package in members)
    return {which: tuple(sorted(several)) for which, several in versions.items()}


def files(before: Paths, after: Paths) -> Files:
    """What became of the files. Two regular ones of a size have the same content if their digests are equal."""
    pairs = ((path, before[path], after[path]) for path in sorted(before.keys() & after.keys()))
    return Files(
        added=tuple((path, after[path]) for path in sorted(after.keys() - before.keys())),
        removed=tuple((path, before[path]) for path in sorted(before.keys() - after.keys())),
        changed=tuple(
            Changed(path, old, new, words) for path, old, new in pairs if (words := differs(old, new))
        ),
    )  # fmt: skip


def differs(before: Entry, after: Entry) -> tuple[str, ...]:
    """In what; of entries of different types, in the type alone."""
    if before.kind != after.kind:
        return ("type",)
    found = [
        name
        for name in ("mode", "owner", "group", "size", "links", "target", "device", "xattrs")
        if getattr(before, name) != getattr(after, name)
    ]
    if before.regular and (before.size != after.size or before.digest != after.digest):
        found.append("content")
    return tuple(found)


def undecided(before: Paths, after: Paths) -> tuple[bytes, ...]:
    """Names of which only the content can tell whether they are equal: their digests are wanted."""
    return tuple(
        path
        for path in sorted(before.keys() & after.keys())
        if before[path].regular and after[path].regular and 0 < before[path].size == after[path].size
    )


def texts(changed: Sequence[Changed]) -> tuple[bytes, ...]:
    """Names of files with other contents that are small enough for :func:`unified`. What not everybody may read
    (passwords, private keys) is none of ours to show; see :func:`in_the_open`, too."""
    return tuple(
        item.path
        for item in changed
        if "content" in item.differs
        and max(item.before.size, item.after.size) <= (CONFIGURATION if item.path.startswith(b"etc/") else SMALL)
        and item.before.mode & item.after.mode & 0o004
    )


def above(paths: Iterable[bytes]) -> frozenset[bytes]:
    """The directories that lead to *paths*, the root among them."""
    parts = (path.split(b"/") for path in paths)
    return frozenset(b"/".join(some[:depth]) or b"." for some in parts for depth in range(len(some)))


def in_the_open(paths: Iterable[bytes], *sides: Paths) -> tuple[bytes, ...]:
    """Those of *paths* that everybody can get to on all *sides*. A directory that is on none (a tar may leave it out)
    is made as directories are."""

    def passable(directory: bytes) -> bool:
        found = [side[directory] for side in sides if directory in side]
        return all(entry.kind == "directory" and entry.mode & 0o001 for entry in found)

    return tuple(path for path in paths if all(map(passable, above([path]))))


def diffs(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes]) -> dict[bytes, str]:
    """Unified diffs of the contents of both, by path; without those that are no texts."""
    found = ((path, unified(path, before[path], after[path])) for path in before if path in after)
    return {path: text for path, text in found if text is not None}


def unified(path: bytes, before: bytes, after: bytes) -> str | None:
    """A unified diff of two texts; None for what is none (a zero byte, no UTF-8), or has too many lines."""
    try:
        old, new = (content.decode("utf-8") for content in (before, after))
    except UnicodeDecodeError:
        return None
    # Not splitlines(): it takes form feeds and others for the end of a line.
    lines = old.split("\n"), new.split("\n")
    if "\0" in old + new or max(map(len, lines)) > LINES:
        return None
    one, other = map(_ended, lines)
    name = shown(path)
    return "\n".join(difflib.unified_diff(one, other, f"a{name}", f"b{name}", lineterm=""))


def _ended(lines: list[str]) -> list[str]:
    """Lines without their ends; the last one tells when it has none."""
    *whole, rest = lines
    return [*whole, f"{rest}\n\\ No newline at end of file"] if rest else whole


@dataclass(frozen=True)
class Blob:
    """A file as a whole: *size* in bytes, and SHA-256."""

    size: int
    digest: str

    def to_json(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": self.digest}


@dataclass(frozen=True)
class Artifact:
    """One by *name* that is in one of the two only (else None), or has other bytes."""

    name: str
    before: Blob | None
    after: Blob | None

    def to_json(self) -> dict[str, Any]:
        sides = (("before", self.before), ("after", self.after))
        return {"name": self.name, **{which: blob and blob.to_json() for which, blob in sides}}


def artifacts(before: Mapping[str, Blob], after: Mapping[str, Blob]) -> tuple[Artifact, ...]:
    """Those that differ, sorted by name."""
    found = (Artifact(name, before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys()))
    return tuple(one for one in found if one.before != one.after)


@dataclass(frozen=True)
class Comparison:
    """The whole answer. None is what could not be compared, because one of the two does not tell it. *texts* are
    unified diffs by path, *sizes* bytes (before, after) by what they are of, *notes* what the user should know."""

    packages: Packages
    artifacts: tuple[Artifact, ...] | None = None
    files: Files | None = None
    texts: Mapping[bytes, str] = field(default_factory=dict)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether they differ."""
        return bool(self.packages or self.artifacts or self.files)

    def to_json(self) -> dict[str, Any]:
        return {
            "differ": bool(self),
            "packages": self.packages.to_json(),
            "artifacts": None if self.artifacts is None else [one.to_json() for one in self.artifacts],
            "files": None if self.files is None else self.files.to_json(),
            "texts": {shown(path): text for path, text in self.texts.items()},
            "sizes": {name: {"before": old, "after": new} for name, (old, new) in self.sizes.items()},
            "notes": list(self.notes),
        }
