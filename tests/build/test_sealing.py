"""What is sealed in the background, without any VM: the order, the locks, and what an error does."""

import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from sfvm.build import sealing
from sfvm.build.sealing import Sealer
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.errors import SfvmError


class Seals:
    """A sealer whose publishing is watched, and fails for the names in *broken*."""

    def __init__(self, monkeypatch):
        self.stop = Cancellation()
        self.log, self.broken, self.locked = [], set(), set()
        self.go = threading.Event()
        monkeypatch.setattr(sealing, "publish", self.publish)
        self.sealer = Sealer(
            None,
            lambda event: None,
            self.stop,
            sealed=lambda key: self.log.append(f"told {key}"),
            failed=lambda: self.log.append("failed"),
        )

    def publish(self, finished, repository, stop, listener):
        name = finished.node.name
        with stop.killing(self.go.set):
            assert self.go.wait(120)
            stop.check()
        assert name in self.locked
        if name in self.broken:
            raise SfvmError("the disk is full")
        self.log.append(f"published {name}")
        return SimpleNamespace(name=name, key=name, seconds=1.0, size=1)

    def submit(self, name):
        lock = ExitStack()
        self.locked.add(name)
        lock.callback(self.locked.discard, name)
        self.sealer.submit(SimpleNamespace(node=SimpleNamespace(name=name), work=name), lock)


@pytest.fixture
def seals(monkeypatch):
    made = Seals(monkeypatch)
    yield made
    made.go.set()
    made.sealer.close()


def test_in_order_each_locked_until_it_is_published(seals):
    for name in "abc":
        seals.submit(name)
    assert seals.locked == {"a", "b", "c"}
    assert seals.log == []
    seals.go.set()
    seals.sealer.wait()
    assert seals.log == [f"{what} {name}" for name in "abc" for what in ("published", "told")]
    assert seals.locked == set()
    assert seals.sealer.published == ["a", "b", "c"]


def test_a_child_of_what_could_not_be_sealed_is_not(seals):
    seals.broken.add("b")
    for name in "abc":
        seals.submit(name)
    seals.go.set()
    with pytest.raises(SfvmError, match="node b: the disk is full"):
        seals.sealer.wait()
    assert seals.log == ["published a", "told a", "failed"]
    assert seals.locked == set()
    assert seals.sealer.published == ["a"]


def test_cancelled_it_ends_and_publishes_no_more(seals):
    for name in "ab":
        seals.submit(name)
    seals.stop.cancel()
    with pytest.raises(Cancelled):
        seals.sealer.wait()
    assert "published a" not in seals.log
    assert seals.locked == set()
