"""What finishing has made is kept, made once, and nothing that is half made is taken for it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from sfvm.bundle.finished import FACTS, FILESYSTEM, Finished, kept
from sfvm.bundle.kernel import Kernel
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.repository import Repository
from sfvm.repository.collection import FINISHED_AGE

KEY, DIGEST = "a" * 64, "b" * 64
KERNEL = Kernel("6.1", {"XEN": "y"}, modules=frozenset({"a", "b"}), compression="xz")


class Maker:
    """Makes a finished node, and counts how often."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self, directory: Path) -> Finished:
        self.made += 1
        (directory / FILESYSTEM).write_bytes(b"filesystem")
        return Finished(directory, "root", "quiet", KERNEL)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


def get(repository: Repository, make: Maker, digest: str = DIGEST, stop: Cancellation | None = None) -> Finished:
    return kept(repository, KEY, digest, make, stop or Cancellation(), lambda: None)


def test_what_was_made_is_found_again(repository: Repository) -> None:
    make = Maker()
    first, again, other = get(repository, make), get(repository, make), get(repository, make, "c" * 64)
    assert first == again
    assert first.kernel == KERNEL
    assert first.filesystem.read_bytes() == b"filesystem"
    assert other.directory != first.directory
    assert make.made == 2
    assert list((repository.root / "tmp").iterdir()) == []


def test_one_thread_makes_it_and_others_wait(repository: Repository) -> None:
    make, begun, go = Maker(), threading.Event(), threading.Event()

    class Slow(Maker):
        def __call__(self, directory: Path) -> Finished:
            begun.set()
            go.wait(60)
            return make(directory)

    found: list[Finished] = []
    waiting = threading.Event()
    one = threading.Thread(target=lambda: found.append(get(repository, Slow())))
    one.start()
    begun.wait(60)
    two = threading.Thread(
        target=lambda: found.append(kept(repository, KEY, DIGEST, make, Cancellation(), waiting.set))
    )
    two.start()
    assert waiting.wait(60)
    go.set()
    one.join(60)
    two.join(60)
    assert make.made == 1
    assert found[0] == found[1]


def test_who_waits_can_be_told_to_stop(repository: Repository) -> None:
    stop = Cancellation()

    def outer(directory: Path) -> Finished:
        stop.cancel()
        with pytest.raises(Cancelled):
            get(repository, Maker(), stop=stop)
        return Maker()(directory)

    assert kept(repository, KEY, DIGEST, outer, Cancellation(), lambda: None).root == "root"


@pytest.mark.parametrize("damage", [FACTS, FILESYSTEM])
def test_what_is_damaged_is_made_anew(repository: Repository, damage: str) -> None:
    make = Maker()
    (get(repository, make).directory / damage).unlink()
    assert get(repository, make).filesystem.exists()
    assert make.made == 2


def test_what_fails_leaves_nothing(repository: Repository) -> None:
    def fail(directory: Path) -> Finished:
        (directory / "half").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept(repository, KEY, DIGEST, fail, Cancellation(), lambda: None)
    assert list((repository.root / "tmp").iterdir()) == []
    assert get(repository, Maker()).root == "root"


def test_gc_removes_what_has_no_node_or_was_not_used_for_long(repository: Repository) -> None:
    directory = get(repository, Maker()).directory
    with repository.lease([KEY]):
        repository.gc()
        assert directory.exists()
    old = time.time() - FINISHED_AGE - 60
    os.utime(directory, (old, old))
    repository.gc()
    assert not directory.exists()
