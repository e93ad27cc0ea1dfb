"""A build with a lock: which nodes it makes anew, what these may fetch, and when the lock does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sfvm import tree
from sfvm.errors import SpecError, UsageError
from sfvm.lock import files, model
from sfvm.lock.model import Lock
from sfvm.lock.pins import check, pins
from sfvm.lock.resolve import resolve
from sfvm.repository import Manifest
from sfvm.spec.library import Library
from sfvm.tree import Node, Pin
from tests.lock.conftest import Write, fetched, manifest, sha

PATH = Path("leaf.lock.xml")
GOT = {
    "root": [],
    "middle": [fetched("InRelease", 1), fetched("a_1_all.deb", 2)],
    "leaf": [fetched("InRelease", 3), fetched("b_1_all.deb", 4)],
}


class Repository:
    """What is built: *manifests* by key."""

    def __init__(self, manifests: Mapping[str, Manifest] | None = None) -> None:
        self.manifests = manifests or {}

    def built(self, key: str) -> bool:
        return key in self.manifests

    def manifest(self, key: str) -> Manifest:
        return self.manifests[key]


def nodes(specs: Path, pinned: Mapping[str, Pin] | None = None, **arguments: str) -> tuple[Node, ...]:
    return tree.resolve(Library([specs]), ["leaf"], arguments, pinned or {})


def lock_of(chain: tuple[Node, ...]) -> Lock:
    return model.make(chain, {node.name: manifest(node, GOT[node.name]) for node in chain})


def test_where_nothing_is_built_all_is_made_anew(specs: Path) -> None:
    chain = nodes(specs)
    found = pins(lock_of(chain), PATH, chain, chain, Repository())
    inrelease, url = "http://mirror.test/InRelease", "http://mirror.test/{}_1_all.deb".format
    assert found["root"].contents == {}
    assert found["middle"].contents == {inrelease: sha(1), url("a"): sha(2)}
    assert found["leaf"].contents == {inrelease: sha(3), url("a"): sha(2), url("b"): sha(4)}
    locked = nodes(specs, found)
    assert [one.key == other.key for one, other in zip(chain, locked, strict=True)] == [False] * 3


def test_its_digest_is_in_the_keys(specs: Path) -> None:
    chain = nodes(specs)
    keys = [node.key for node in nodes(specs, pins(lock_of(chain), PATH, chain, chain, Repository()))]
    newer = {**GOT, "leaf": [fetched("InRelease", 5)]}
    other = model.make(chain, {node.name: manifest(node, newer[node.name]) for node in chain})
    changed = [node.key for node in nodes(specs, pins(other, PATH, chain, chain, Repository()))]
    assert [one == another for one, another in zip(keys, changed, strict=True)] == [True, True, False]


def test_what_it_was_made_from_need_not_be_built_again(specs: Path) -> None:
    plain = nodes(specs)
    for current in (plain, nodes(specs, {"root": Pin(refreshed="now")})):
        built = Repository({node.key: manifest(node, GOT[node.name][::-1]) for node in current})
        found = pins(lock_of(plain), PATH, plain, current, built)
        assert [node.key for node in nodes(specs, found)] == [node.key for node in current]


def test_what_was_built_from_something_else_does_not_count(specs: Path) -> None:
    chain = nodes(specs)
    got = {**GOT, "middle": [fetched("InRelease", 9)]}
    built = Repository({node.key: manifest(node, got[node.name]) for node in chain})
    found = pins(lock_of(chain), PATH, chain, chain, built)
    assert [bool(found[node.name].lock) for node in chain] == [False, True, True]


def test_to_have_fetched_nothing_is_a_lock_too(specs: Path) -> None:
    """The root fetched nothing then; whatever was built of it since, whole or in part, has another key."""
    chain = nodes(specs)
    built = Repository({node.key: manifest(node, GOT[node.name] or [fetched("InRelease", 9)]) for node in chain})

    def keys(nodes: tuple[Node, ...]) -> set[str]:
        return {key for node in nodes for key in (node.base_key, node.key)}

    for repository in (built, Repository()):
        locked = nodes(specs, pins(lock_of(chain), PATH, chain, chain, repository))
        assert keys(locked).isdisjoint(keys(chain))


def test_a_node_that_cannot_be_locked_is_not_what_the_lock_wants(specs: Path) -> None:
    chain = nodes(specs)
    got = {**GOT, "leaf": [*GOT["leaf"], fetched("InRelease", 9)]}
    built = Repository({node.key: manifest(node, got[node.name]) for node in chain})
    assert pins(lock_of(chain), PATH, chain, chain, built)["leaf"].lock


def test_a_step_changed_since(specs: Path, write: Write) -> None:
    lock = lock_of(nodes(specs))
    write("middle", '<filesystem parent="root"><steps><packages install="c"/></steps></filesystem>')
    with pytest.raises(SpecError, match="middle is not what was locked") as error:
        check(lock, PATH, nodes(specs))
    assert "sfvm why middle" in (error.value.why or "")
    assert "sfvm lock leaf" in (error.value.hint or "")


def test_a_param_has_another_value(specs: Path, write: Write) -> None:
    write(
        "root",
        '<filesystem><param name="suite" default="one"/><base><empty/></base>'
        "<steps><run>echo ${suite}</run></steps></filesystem>",
    )
    lock = files.parse(files.document.parse(PATH, files.dump(lock_of(nodes(specs)))))
    check(lock, PATH, nodes(specs))
    with pytest.raises(SpecError, match="root is not what was locked") as error:
        check(lock, PATH, nodes(specs, suite="two"))
    assert error.value.why == "its param suite was 'one', and is 'two'"
    assert error.value.place and error.value.place.line == 4


def test_an_ancestor_is_new(specs: Path, write: Write) -> None:
    lock = lock_of(nodes(specs))
    write("new", '<filesystem parent="root"/>')
    write("middle", '<filesystem parent="new"><steps><packages install="a"/></steps></filesystem>')
    with pytest.raises(SpecError, match=r"leaf\.lock\.xml does not lock new"):
        check(lock, PATH, nodes(specs))


def test_a_spec_may_look_different_and_mean_the_same(specs: Path, write: Write) -> None:
    lock = lock_of(nodes(specs))
    write("middle", '<filesystem parent="root"><!-- x --><steps><packages  install="a "/></steps></filesystem>')
    check(lock, PATH, nodes(specs))


def test_two_locks_of_an_ancestor_must_agree(specs: Path, write: Write, tmp_path: Path) -> None:
    write("other", '<filesystem parent="middle"/>')
    library = Library([specs])
    chains = {name: tree.resolve(library, [name], {}) for name in ("leaf", "other")}
    got = {**GOT, "other": []}

    def lock(name: str) -> None:
        made = model.make(chains[name], {node.name: manifest(node, got[node.name]) for node in chains[name]})
        files.write(made, tmp_path / f"{name}.lock.xml")

    def resolved() -> list[Node]:
        found, locks = resolve(
            library, ["leaf", "other"], {}, {}, Repository(), lambda name: tmp_path / f"{name}.lock.xml"
        )
        assert set(locks) == {"leaf", "other"}
        return list(found)

    lock("leaf")
    lock("other")
    assert [node.name for node in resolved()] == ["root", "middle", "leaf", "other"]
    got["middle"] = [fetched("InRelease", 7)]
    lock("other")
    with pytest.raises(UsageError, match="two locks of middle"):
        resolved()
