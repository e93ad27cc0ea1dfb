"""A trial: a locked node and its ancestors, to be built anew from what the repositories have now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from sfvm import tree
from sfvm.errors import UsageError
from sfvm.lock.model import Lock
from sfvm.repository import Repository
from sfvm.repository.stamps import Stamps, now
from sfvm.spec.library import Library
from sfvm.tree import Node, Pin

RESUMED = timedelta(hours=1)
"""So old may a trial be that was interrupted and goes on: what it has fetched should be what there still is."""


@dataclass(frozen=True)
class Trial:
    """The *nodes* of the chain, root first. *first* is the one that is refreshed, by *stamp*."""

    first: str
    stamp: str
    nodes: tuple[Node, ...]

    def accept(self, repository: Repository) -> None:
        """From now on it is what the names stand for. Interrupted, it can be done again: the proposal goes last.

        :raises RepositoryError: it cannot be written
        """
        Stamps(repository.root).set(self.first, self.stamp)
        for node in self.nodes:
            repository.point(node.name, node.key)
        self.forget(repository)

    def forget(self, repository: Repository) -> None:
        """It is not to be gone on with, nor to be accepted: the next one begins anew.

        :raises RepositoryError: it cannot be written
        """
        Stamps(repository.root, "proposed").set(self.first, None)


def prepare(
    library: Library,
    plain: Sequence[Node],
    arguments: Mapping[str, str],
    before: Lock,
    current: Mapping[str, Pin],
    repository: Repository,
    *,
    accepted: bool,
) -> Trial:
    """A trial of the chain *plain* (root first, without pins) with *arguments*, which had the lock *before*; *current*
    are the pins that hold otherwise. One that was not finished goes on; one that was is taken when it is to be
    *accepted*, else there is a new one.

    :raises UsageError: nothing is downloaded for the chain
    :raises SfvmError: the repository cannot be read or written
    """
    first = _first(before, plain)
    proposed = Stamps(repository.root, "proposed")

    def trial(stamp: str) -> Trial:
        pins = {node.name: replace(current.get(node.name, Pin()), trial=True) for node in plain}
        pins[first] = replace(pins[first], refreshed=stamp)
        return Trial(first, stamp, tree.resolve(library, [plain[-1].name], arguments, pins))

    stamp = proposed.all().get(first)
    if stamp is not None:
        found = trial(stamp)
        finished = all(repository.built(node.key) for node in found.nodes)
        if (finished and accepted) or (not finished and _recent(stamp)):
            return found
    repository.make()
    proposed.set(first, stamp := now())
    return trial(stamp)


def _recent(stamp: str) -> bool:
    try:
        return datetime.now(UTC) - datetime.fromisoformat(stamp) < RESUMED
    except (ValueError, TypeError):
        return False


def _first(before: Lock, plain: Sequence[Node]) -> str:
    """The nearest to the root of those that have fetched something, or may do so now.

    :raises UsageError: there is none
    """
    known = before.by_node
    for node in plain:
        section = known.get(node.name)
        if section is None or section.contents or section.key != node.key:
            return node.name
    raise UsageError(f"nothing is downloaded for {plain[-1].name}", hint="its lock stays as it is")
