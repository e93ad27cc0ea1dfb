"""Nodes and their keys.

A key is the SHA-256 of canonical JSON. Only the expanded meaning counts: elements, their verbs' versions and inputs,
the disk, the machine's architecture, and the parent's key. Places, comments, formatting, summaries and names do not,
and params only through what they change.

The keys of a node form a chain: ``base_key`` (a root's base and disk, or the parent's key, and what pins the node to a
moment), then one key per step, each covering everything up to and including its step. The node's key is that of its
last step; a node without steps has the hash of ``["node", base_key]``, so that it is never confused with its parent.

No function here recurses over the tree's depth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from sfvm.errors import SpecError, UsageError, suggestion
from sfvm.spec.expansion import expand
from sfvm.spec.library import Library
from sfvm.spec.model import Definition, Spec
from sfvm.tree.pin import UNPINNED, Pin
from sfvm.verbs import JSON

VERSION = 1
"""Raised when keys are made in another way: then everything is built again."""


@dataclass(frozen=True)
class StepInputs:
    """A step as its node's key sees it; *key* covers everything up to and including it, *place* is for people."""

    element: str
    title: str
    place: str
    key: str
    inputs: Mapping[str, JSON]


@dataclass(frozen=True, eq=False)
class Node:
    """One filesystem of the tree. Compared by identity: a deep chain of parents must not be compared recursively.

    *inputs* is all of the node's own input, JSON-able, for its manifest and for :func:`sfvm.tree.explain`;
    *depth* is the number of its ancestors.
    """

    definition: Definition
    parent: Node | None = field(repr=False)
    key: str
    base_key: str
    steps: tuple[StepInputs, ...] = field(repr=False)
    inputs: Mapping[str, JSON] = field(repr=False)
    depth: int
    pin: Pin = field(default=UNPINNED, repr=False)

    @property
    def name(self) -> str:
        return self.definition.name

    def ancestors(self) -> tuple[Node, ...]:
        """The node's ancestors, root first, without itself."""
        found: list[Node] = []
        node = self.parent
        while node is not None:
            found.append(node)
            node = node.parent
        return tuple(reversed(found))

    @property
    def chain(self) -> tuple[Node, ...]:
        """The ancestors, root first, and the node itself."""
        return (*self.ancestors(), self)


def canonical(value: JSON) -> bytes:
    """*value* as JSON that is the same for equal values: sorted, no white space, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(value: JSON) -> str:
    """The SHA-256 of *value*'s canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()


def start(parent: str | None, base: JSON, disk: JSON, pinned: Mapping[str, JSON]) -> str:
    """The ``base_key`` of a node upon the node with the key *parent*, or of a root with *base* and *disk*."""
    key = parent or digest(["base", VERSION, base, disk])
    return digest(["pinned", key, dict(pinned)]) if pinned else key


def resolve(
    library: Library,
    names: Sequence[str],
    arguments: Mapping[str, str],
    pins: Mapping[str, Pin] = MappingProxyType({}),
) -> tuple[Node, ...]:
    """The nodes *names* and all their ancestors, parents first, each once.

    *arguments* are values of params: ``name`` for every node that declares it, ``NODE:name`` for one node. *pins* are
    those of nodes by name.

    :raises SpecError: a missing spec or parent, a cycle of parents, or whatever is wrong with a spec
    :raises UsageError: an argument that no node declares
    """
    specs = _specs(library, names)
    given = _distribute(arguments, specs)
    nodes: dict[str, Node] = {}
    for spec in specs.values():
        parent = nodes[spec.parent] if spec.parent else None
        definition = expand(
            spec, given[spec.name], parent.definition.facts if parent else {}, library_dirs=library.directories
        )
        nodes[spec.name] = make(definition, parent, pins.get(spec.name, UNPINNED))
    return tuple(nodes.values())


def make(definition: Definition, parent: Node | None, pin: Pin = UNPINNED) -> Node:
    """The node of *definition* upon *parent*, pinned by *pin*: reads what its steps refer to and computes the keys.

    :raises SpecError: when a file that a step refers to is missing or outside the spec's directory
    """
    base: dict[str, Any] | None = None
    disk: dict[str, Any] | None = None
    if parent is None:
        assert definition.base is not None  # a root, by the schema
        assert definition.disk is not None
        base = {
            "element": definition.base.element,
            "version": definition.base.version,
            "inputs": definition.base.inputs(),
            "architecture": definition.facts["architecture"],
        }
        disk = {"size": definition.disk.size, "format": definition.disk.format}
    pinned = pin.inputs()
    base_key = start(parent.key if parent else None, base, disk, pinned)
    steps: list[StepInputs] = []
    records: list[dict[str, Any]] = []
    key = base_key
    for step in definition.steps:
        meaning: dict[str, Any] = {"element": step.element, "version": step.version, "inputs": step.inputs()}
        key = digest(["step", key, meaning])
        place = f"{step.place.path.name}:{step.place.line}:{step.place.column}"
        steps.append(StepInputs(step.element, step.title(), place, key, meaning["inputs"]))
        records.append({**meaning, "title": steps[-1].title, "place": place})
    inputs = {
        "version": VERSION,
        "parent": {"name": parent.name, "key": parent.key} if parent else None,
        "base": base,
        "disk": disk,
        "arguments": dict(definition.arguments),
        "steps": records,
        **({"pinned": pinned} if pinned else {}),
    }
    key = steps[-1].key if steps else digest(["node", base_key])
    return Node(definition, parent, key, base_key, tuple(steps), inputs, parent.depth + 1 if parent else 0, pin)


def _specs(library: Library, names: Iterable[str]) -> dict[str, Spec]:
    """The specs of *names* and their ancestors, parents first."""
    found: dict[str, Spec] = {}
    for name in names:
        chain: dict[str, Spec] = {}
        wanted: str | None = name
        child: Spec | None = None
        while wanted and wanted not in found:
            if wanted in chain:
                raise _cycle(chain, wanted)
            try:
                spec = library.get(wanted)
            except SpecError as error:
                error.place = error.place or (child.root.place_of("parent") if child else None)
                raise
            chain[wanted] = child = spec
            wanted = spec.parent
        found |= dict(reversed(chain.items()))
    return found


def _cycle(chain: Mapping[str, Spec], name: str) -> SpecError:
    members = list(chain.values())
    members = members[list(chain).index(name) :]
    return SpecError(
        "a cycle of parents: " + " → ".join([*(spec.name for spec in members), name]),
        place=members[0].root.place_of("parent"),
        why="; ".join(f"{spec.root.place_of('parent')} names {spec.parent}" for spec in members),
        hint="give one of them another parent, or a base",
    )


def _distribute(arguments: Mapping[str, str], specs: Mapping[str, Spec]) -> dict[str, dict[str, str]]:
    """Each node's own arguments."""
    declared = {name: {param.name for param in spec.params} for name, spec in specs.items()}
    given: dict[str, dict[str, str]] = {name: {} for name in specs}
    # Those for one node come last: they win.
    for argument, value in sorted(arguments.items(), key=lambda item: ":" in item[0]):
        node, colon, param = argument.rpartition(":")
        if colon and node not in specs:
            raise UsageError(f"argument {argument!r}: {node!r} is not among the nodes", hint=suggestion(node, specs))
        takers = [name for name in ([node] if colon else specs) if param in declared[name]]
        if not takers:
            known = declared[node] if colon else set().union(*declared.values())
            raise UsageError(
                f"argument {argument!r}: no node declares the param {param!r}"
                if not colon
                else f"argument {argument!r}: node {node!r} declares no param {param!r}",
                hint=suggestion(param, known) or "see `sfvm spec show` for the params of a node",
            )
        for name in takers:
            given[name][param] = value
    return given
