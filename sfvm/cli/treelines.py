"""Draws trees as text. Depth costs little: past :data:`DEEP` columns an only child stands under its parent without a
further indent, so that a chain of a thousand nodes stays readable; nothing here recurses."""

from __future__ import annotations

from collections.abc import Iterable

DEEP = 24


def branches(nodes: Iterable[tuple[str, str | None]]) -> list[tuple[str, str, str]]:
    """The nodes (name and parent) in the order to draw them, each with what to put before its name, and before further
    lines about it.

    A parent that is not among them counts as none.
    """
    parents = dict(nodes)
    children: dict[str | None, list[str]] = {}
    for name, parent in parents.items():
        children.setdefault(parent if parent in parents else None, []).append(name)
    drawn: list[tuple[str, str, str]] = []
    # What is still to draw, next one last: the name, what its line begins with, what the lines below it begin with.
    pending = [(name, "", "", "") for name in reversed(children.get(None, []))]
    while pending:
        name, outer, mark, below = pending.pop()
        drawn.append((name, outer + mark, below))
        offspring = children.get(name, [])
        if len(offspring) == 1 and len(below) >= DEEP:
            pending.append((offspring[0], outer, "↳  ", below))
            continue
        for position, child in enumerate(reversed(offspring)):
            mark, rest = ("└─ ", "   ") if position == 0 else ("├─ ", "│  ")
            pending.append((child, below, mark, below + rest))
    return drawn
