"""What is newer, told by the last node of a chain, and what that means for its ancestors."""

from __future__ import annotations

from dataclasses import replace

from sfvm.build.outdated import spread, tops
from sfvm.managers.waiting import Waiting
from sfvm.repository import Manifest


def manifest(key: str, parent: Manifest | None = None, **packages: str) -> Manifest:
    return Manifest(
        key=key, name=key, parent=parent.key if parent else None, parent_name=parent.name if parent else None,
        inputs={}, spec="", steps=(), digest="", size=0, disk=0, filesystem="ext4", facts={},
        packages=tuple((name, version, "all") for name, version in packages.items()),
        created=0.0, seconds=0.0, provenance={}, depth=parent.depth + 1 if parent else 0,
    )  # fmt: skip


ROOT = manifest("root", a="1", b="1", c="1", d="1")
LEAF = manifest("leaf", ROOT, a="1", b="2", c="2", e="1")


def test_a_look_into_the_last_ones_is_enough() -> None:
    other, busybox = manifest("other", ROOT, a="1"), manifest("busybox")
    assert [found.key for found in tops([busybox, ROOT, LEAF, other])] == ["leaf", "other"]
    assert tops([ROOT]) == (ROOT,)


def test_newer_than_an_ancestor_is_what_the_last_one_has_or_waits_for() -> None:
    told = [Waiting("a", "1", "3", True), Waiting("b", "2", "3", True), Waiting("e", "1", "2"), Waiting("x", "1", "2")]
    assert spread([ROOT, LEAF], told) == {
        "root": (Waiting("a", "1", "3", True), Waiting("b", "1", "3", True), Waiting("c", "1", "2")),
        "leaf": (Waiting("a", "1", "3", True), Waiting("b", "2", "3", True), Waiting("e", "1", "2")),
    }
    assert spread([ROOT, ROOT], []) == {"root": ()}


def kernels(manifest: Manifest, *versions: str) -> Manifest:
    return replace(manifest, packages=tuple(("kernel", version, "x86_64") for version in versions))


def test_a_package_may_be_there_in_several_versions() -> None:
    one, both = kernels(ROOT, "1"), kernels(LEAF, "1", "2")
    assert spread([kernels(ROOT, "1", "2"), both], []) == {"root": (), "leaf": ()}
    assert spread([kernels(ROOT, "1", "2"), kernels(LEAF, "2")], []) == {"root": (), "leaf": ()}
    assert spread([one, both], []) == {"root": (Waiting("kernel", "1", "2"),), "leaf": ()}
    third = Waiting("kernel", "2", "3", True)
    assert spread([one, both], [third]) == {"root": (Waiting("kernel", "1", "3", True),), "leaf": (third,)}
