"""What must be built, why, in which appliance boots, and what it will cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from sfvm.tree.explain import explain
from sfvm.tree.node import Node


class History(Protocol):
    """What has been built before."""

    def built(self, key: str) -> bool:
        """Whether the node *key* is there, complete."""

    def last(self, name: str) -> Mapping[str, Any] | None:
        """The last manifest of the node called *name*, as JSON."""


@dataclass(frozen=True)
class PlanEntry:
    """What happens to a node. *seconds* and *bytes* (of the new overlay) are expected from its last build; None:
    never built before; a hit costs nothing."""

    node: Node
    action: Literal["hit", "build"]
    reason: str
    seconds: float | None
    bytes: int | None


@dataclass(frozen=True)
class Plan:
    """*entries* are the nodes that matter, parents first: ancestors of a hit do not. *chains* are the nodes to build,
    one appliance boot each; a chain begins with a root, or with a node whose parent is built or in an earlier chain.
    """

    entries: tuple[PlanEntry, ...]
    chains: tuple[tuple[Node, ...], ...]

    @property
    def builds(self) -> tuple[PlanEntry, ...]:
        return tuple(entry for entry in self.entries if entry.action == "build")

    @property
    def seconds(self) -> float | None:
        """Expected seconds of work, boots not counted; None when a node was never built before."""
        return _total(entry.seconds for entry in self.builds)

    @property
    def bytes(self) -> int | None:
        """Expected bytes of new overlays; None when a node was never built before."""
        total = _total(entry.bytes for entry in self.builds)
        return None if total is None else int(total)

    @property
    def boots(self) -> int:
        """How many times an appliance is started."""
        return len(self.chains)


def plan(nodes: Sequence[Node], wanted: Sequence[str], history: History) -> Plan:
    """The plan for the nodes *wanted* among *nodes* (parents first, as :func:`sfvm.tree.resolve` returns them)."""
    by_name = {node.name: node for node in nodes}
    built: dict[str, bool] = {}
    for name in wanted:
        node: Node | None = by_name[name]
        while node is not None and node.name not in built:
            built[node.name] = history.built(node.key)
            node = None if built[node.name] else node.parent
    needed = [node for node in nodes if node.name in built]
    first: dict[str, Node] = {}
    entries = []
    for node in needed:
        if built[node.name]:
            entries.append(PlanEntry(node, "hit", "built", 0.0, 0))
        else:
            entries.append(_build(node, first.setdefault(node.key, node), built, history.last(node.name)))
    return Plan(tuple(entries), _chains([node for node in needed if not built[node.name]]))


def _build(node: Node, same: Node, built: Mapping[str, bool], last: Mapping[str, Any] | None) -> PlanEntry:
    seconds, size = (last.get("seconds"), last.get("size")) if last else (None, None)
    if same is not node:
        reason = f"the same as {same.name}"
        seconds, size = 0.0, 0
    elif last is None:
        reason = "never built"
    elif last.get("key") == node.key:
        reason = "its overlay is missing"
    else:
        differences = explain(node, last.get("inputs"))
        own = [difference.text for difference in differences if not difference.inherited]
        if own:
            reason = own[0].splitlines()[0] + (f" (and {len(own) - 1} more)" if len(own) > 1 else "")
        elif differences and node.parent:
            rebuilt = not built.get(node.parent.name, True)
            reason = f"parent {node.parent.name} {'is built anew' if rebuilt else 'has changed'}"
        else:
            reason = "changed"
    return PlanEntry(node, "build", reason, seconds, size)


def _chains(nodes: Sequence[Node]) -> tuple[tuple[Node, ...], ...]:
    """Each node goes on in its parent's chain if it leads to the deepest descendant; else it begins a chain."""
    height: dict[str, int] = {}
    heir: dict[str, str] = {}
    for node in reversed(nodes):
        mine = height.setdefault(node.name, 1)
        if node.parent and mine + 1 > height.get(node.parent.name, 1):
            height[node.parent.name] = mine + 1
            heir[node.parent.name] = node.name
    chains: dict[str, list[Node]] = {}
    for node in nodes:
        parent = node.parent.name if node.parent else ""
        chain = chains[parent] if parent in chains and heir[parent] == node.name else []
        chain.append(node)
        chains[node.name] = chain
    return tuple(tuple(chain) for chain in {id(chain): chain for chain in chains.values()}.values())


def _total(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)
