"""Two nodes, compared: of siblings only what has changed since their common ancestor is looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from sfvm import qcow2
from sfvm.config import Settings
from sfvm.contents import comparison, scripts
from sfvm.contents.comparison import Files
from sfvm.contents.entry import Entry
from sfvm.contents.trees import Trees, reading
from sfvm.events import Listener, Notice
from sfvm.repository import Manifest, Repository


def compare(
    before: Manifest, after: Manifest, repository: Repository, settings: Settings, listener: Listener
) -> tuple[Files, Mapping[bytes, str]]:
    """The files that differ, and the unified diffs of texts among them.

    :raises SfvmError: a node cannot be read, or the appliance cannot be started
    """
    if before.key == after.key:
        return Files(), {}
    kin = Kin.of(before, after, repository)
    if kin is None:
        listener(Notice(f"{before.name} and {after.name} have no common ancestor: all their files are read"))
    with reading((before, after), repository, settings, listener) as trees:
        old, new = _entries(trees, kin)
        digests = trees.digests(comparison.undecided(old, new))
        old, new = (scripts.with_digests(e, d) for e, d in zip((old, new), digests, strict=True))
        found = comparison.files(old, new)
        small = comparison.texts(found.changed)
        # Directories that are equal have not been asked for.
        wanted = comparison.in_the_open(small, *trees.entries(sorted(comparison.above(small))))
        return found, comparison.diffs(*trees.contents(wanted, (old, new)))


def _entries(trees: Trees, kin: Kin | None) -> list[dict[bytes, Entry]]:
    """The entries that may differ."""
    kind, other = (node.filesystem for node in trees.nodes)
    if kin is None or kind != other:
        return trees.entries()
    if kind in scripts.WITH_INODES:
        (before, after), inodes = trees.names_and_changes(kin.ranges())
        if inodes is not None:
            return trees.entries(suspects(before, after, inodes))
    before, after = trees.names(scripts.STAMP)
    return trees.entries(suspects(before, after, frozenset()))


def suspects(before: Mapping[bytes, bytes], after: Mapping[bytes, bytes], changed: frozenset[bytes]) -> list[bytes]:
    """The names that may differ: with another stamp, in one only, or with a stamp (an inode) that is *changed*."""
    names = before.keys() | after.keys()
    return sorted(name for name in names if before.get(name) != after.get(name) or before[name] in changed)


@dataclass(frozen=True)
class Kin:
    """Two nodes with a common ancestor. *keys* are those of the nodes between it and them, both included."""

    keys: tuple[str, ...]
    repository: Repository

    @classmethod
    def of(cls, before: Manifest, after: Manifest, repository: Repository) -> Kin | None:
        """None when they have none."""
        lines = [list(_line(node, repository)) for node in (before, after)]
        common = set(lines[0]) & set(lines[1])
        if not common:
            return None
        return cls(tuple(key for line in lines for key in line if key not in common), repository)

    def ranges(self) -> list[tuple[int, int]]:
        """Where their disks can differ (bytes), in order and apart: what an overlay between holds. Each one's own file
        counts, whatever it lies on: so it does not matter where a flattened twin stands for an ancestor."""
        return merged(span for key in self.keys for span in qcow2.allocated(self.repository.overlay(key)))


def _line(node: Manifest, repository: Repository) -> Iterator[str]:
    """The keys of a node and its ancestors."""
    yield node.key
    while node.parent is not None:
        yield node.parent
        node = repository.manifest(node.parent)


def merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """*spans* (first byte, the one after the last) in order, those that touch or overlap as one."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found
