"""What one lock has that another has not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sfvm.lock.model import Lock, Section


@dataclass(frozen=True)
class Change:
    """A package of *node* whose versions were *before* and are *after* (none: it is new, or gone). Without a *name*:
    other files, such as the metadata of repositories, changed; *before* and *after* are empty then."""

    node: str
    name: str
    architecture: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    def __str__(self) -> str:
        if not self.name:
            return "  metadata of repositories, or other files"
        if self.before and self.after:
            return f"  {self.name} {' '.join(self.before)} → {' '.join(self.after)}"
        return f"+ {self.name} {' '.join(self.after)}" if self.after else f"- {self.name} {' '.join(self.before)}"


def changes(before: Lock, after: Lock) -> tuple[Change, ...]:
    """The changes from *before* to *after*, by node (those that are gone last) and name."""
    old, new = before.by_node, after.by_node
    return tuple(change for node in {**new, **old} for change in _section(node, old.get(node), new.get(node)))


def _section(node: str, before: Section | None, after: Section | None) -> Iterator[Change]:
    old, new = _versions(before), _versions(after)
    for name, architecture in sorted({*old, *new}):
        was, now = old.get((name, architecture), ()), new.get((name, architecture), ())
        if was != now:
            yield Change(node, name, architecture, was, now)
    files = [{(file.url, file.sha256) for file in section.files} if section else set() for section in (before, after)]
    if files[0] != files[1]:
        yield Change(node, "", "", (), ())


def _versions(section: Section | None) -> dict[tuple[str, str], tuple[str, ...]]:
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for package, _ in section.packages if section else ():
        key = package.name, package.architecture
        found[key] = (*found.get(key, ()), package.version)
    return found
