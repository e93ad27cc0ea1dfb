"""What must be built, in how many boots."""

from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sfvm import tree
from sfvm.spec.library import Library

Write = Callable[[str, str], Path]
PARENTS = {"r": "", "a": "r", "b": "a", "c": "a", "d": "c", "x": ""}


class History:
    """Built keys, and last manifests by name."""

    def __init__(self, keys: Collection[str] = (), manifests: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self.keys = set(keys)
        self.manifests = manifests or {}
        self.asked: list[str] = []

    def built(self, key: str) -> bool:
        self.asked.append(key)
        return key in self.keys

    def last(self, name: str) -> Mapping[str, Any] | None:
        return self.manifests.get(name)


@pytest.fixture
def directory(write: Write) -> Path:
    for name, parent in PARENTS.items():
        begin = f'parent="{parent}">' if parent else "><base><empty/></base>"
        path = write(f"{name}.xml", f'<filesystem name="{name}" {begin}<steps><run>{name}</run></steps></filesystem>')
    return path.parent


def resolve(directory: Path) -> dict[str, tree.Node]:
    return {node.name: node for node in tree.resolve(Library([directory]), list(PARENTS), {})}


def manifest(node: tree.Node, **other: Any) -> dict[str, Any]:
    return {"key": node.key, "inputs": node.inputs, "seconds": 2.5, "size": 100, **other}


def chains(plan: tree.Plan) -> list[str]:
    return ["".join(node.name for node in chain) for chain in plan.chains]


def test_nothing_is_built_yet(directory: Path) -> None:
    nodes = resolve(directory)
    plan = tree.plan(list(nodes.values()), ["b", "d"], History())
    assert [(entry.node.name, entry.action, entry.reason) for entry in plan.entries] == [
        (name, "build", "never built") for name in "rabcd"
    ]
    assert chains(plan) == ["racd", "b"]  # the longest chain first: it is one boot
    assert plan.boots == 2
    assert (plan.seconds, plan.bytes) == (None, None)


def test_all_is_built(directory: Path) -> None:
    nodes = resolve(directory)
    history = History(node.key for node in nodes.values())
    plan = tree.plan(list(nodes.values()), ["d"], history)
    assert [(entry.node.name, entry.action) for entry in plan.entries] == [("d", "hit")]
    assert (plan.boots, plan.seconds, plan.bytes) == (0, 0, 0)
    assert history.asked == [nodes["d"].key]  # its ancestors need not even be there


def test_only_what_is_missing_is_built(directory: Path) -> None:
    nodes = resolve(directory)
    history = History([nodes["a"].key], {"c": manifest(nodes["c"])})
    plan = tree.plan(list(nodes.values()), ["b", "d"], history)
    assert [(entry.node.name, entry.action) for entry in plan.entries] == [
        ("a", "hit"),
        ("b", "build"),
        ("c", "build"),
        ("d", "build"),
    ]
    assert plan.entries[2].reason == "its overlay is missing"
    assert (plan.entries[2].seconds, plan.entries[2].bytes) == (2.5, 100)
    assert chains(plan) == ["b", "cd"]


def test_every_chain_begins_where_its_parent_is_ready(directory: Path) -> None:
    nodes = resolve(directory)
    plan = tree.plan(list(nodes.values()), list(PARENTS), History())
    ready: set[str] = set()
    for chain in plan.chains:
        for node, after in pairwise(chain):
            assert after.parent is node
        assert chain[0].parent is None or chain[0].parent.name in ready
        ready |= {node.name for node in chain}
    assert ready == set(PARENTS)
    assert plan.boots == 3


def test_the_reason_is_the_input_that_changed(directory: Path, write: Write) -> None:
    before = resolve(directory)
    write("c.xml", '<filesystem name="c" parent="a"><steps><run>new</run></steps></filesystem>')
    after = resolve(directory)
    history = History([after["a"].key], {name: manifest(node) for name, node in before.items()})
    plan = tree.plan(list(after.values()), ["d"], history)
    reasons = {entry.node.name: entry.reason for entry in plan.entries}
    assert reasons["a"] == "built"
    assert reasons["c"].startswith("step 1 run (c.xml:1:")
    assert reasons["d"] == "parent c is built anew"
    assert (plan.seconds, plan.bytes) == (5.0, 200)


def test_two_names_for_the_same(directory: Path, write: Write) -> None:
    write("c.xml", '<filesystem name="c" parent="a"><steps><run>b</run></steps></filesystem>')
    nodes = resolve(directory)
    plan = tree.plan(list(nodes.values()), ["b", "c"], History([nodes["a"].key]))
    assert [entry.reason for entry in plan.entries] == ["built", "never built", "the same as b"]
