"""What a new lock would change."""

from __future__ import annotations

from sfvm.guest import Package
from sfvm.lock.changes import changes
from sfvm.lock.model import Content, Lock, Section
from tests.lock.conftest import sha


def deb(name: str, version: str, number: int = 1, architecture: str = "all") -> Content:
    url = f"http://mirror.test/{name}_{version}_{architecture}.deb"
    return Content(url, sha(number), 1, Package(name, version, architecture))


def lock(**nodes: tuple[Content, ...]) -> Lock:
    return Lock(tuple(Section(name, sha(0), {}, contents) for name, contents in nodes.items()))


def shown(before: Lock, after: Lock) -> list[str]:
    return [f"{change.node}: {change}" for change in changes(before, after)]


def test_added_removed_and_of_another_version() -> None:
    before = lock(root=(deb("same", "1"), deb("gone", "1"), deb("moved", "1")), leaf=(deb("only", "1"),))
    after = lock(root=(deb("moved", "2"), deb("new", "1"), deb("same", "1")), leaf=())
    assert shown(before, after) == [
        "root: - gone 1",
        "root:   moved 1 → 2",
        "root: + new 1",
        "leaf: - only 1",
    ]
    assert shown(before, before) == []


def test_architectures_and_several_versions_are_told_apart() -> None:
    before = lock(n=(deb("a", "1"), deb("a", "1", architecture="i386")))
    after = lock(n=(deb("a", "1"), deb("a", "2"), deb("a", "1", architecture="i386")))
    assert shown(before, after) == ["n:   a 1 → 1 2"]


def test_other_files_are_one_change() -> None:
    files = [Content("http://mirror.test/InRelease", sha(number), 1) for number in (1, 2)]
    assert shown(lock(n=(files[0],)), lock(n=(files[1],))) == ["n:   metadata of repositories, or other files"]


def test_nodes_come_and_go() -> None:
    assert shown(lock(a=(deb("x", "1"),)), lock(b=(deb("y", "1"),))) == ["b: + y 1", "a: - x 1"]
