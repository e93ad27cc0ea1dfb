"""The nodes of a build that keeps to lock files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sfvm import tree
from sfvm.errors import UsageError
from sfvm.lock.files import read
from sfvm.lock.model import Lock
from sfvm.lock.pins import Built, pins
from sfvm.spec.library import Library
from sfvm.tree import Node, Pin


def resolve(
    library: Library,
    names: Sequence[str],
    arguments: Mapping[str, str],
    current: Mapping[str, Pin],
    built: Built,
    place: Callable[[str], Path],
) -> tuple[tuple[Node, ...], Mapping[str, Lock]]:
    """The nodes *names* and their ancestors, parents first, as the lock of each of *names* wants them, and the locks.

    *current* are the pins of a build without locks, *place* says where the lock of a node is.

    :raises UsageError: a node has no lock, or two locks say different things of one ancestor
    :raises SpecError: a lock is malformed, or does not fit the specs
    """
    plain = _chains(tree.resolve(library, names, arguments))
    now = _chains(tree.resolve(library, names, arguments, current)) if current else plain
    locks: dict[str, Lock] = {}
    found: dict[str, Pin] = {}
    said: dict[str, Path] = {}
    for name in dict.fromkeys(names):
        path = place(name)
        locks[name] = read(path, name)
        for node, pin in pins(locks[name], path, plain[name], now[name], built).items():
            if found.setdefault(node, pin).inputs() != pin.inputs():
                raise UsageError(
                    f"two locks of {node}",
                    why=f"{said[node]} and {path} do not say the same of it",
                    hint=f"one after the other, or lock them from one build: sfvm lock {' '.join(names)}",
                )
            said.setdefault(node, path)
    return tree.resolve(library, names, arguments, found), locks


def _chains(nodes: Sequence[Node]) -> Mapping[str, tuple[Node, ...]]:
    return {node.name: node.chain for node in nodes}
