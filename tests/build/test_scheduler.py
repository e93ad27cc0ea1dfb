"""The order of chains, without any VM: what may start when, how many at once, and what a failure or Ctrl-C does."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm.build.scheduler import Cancelled, Schedule, jobs
from sfvm.config import Settings


@dataclasses.dataclass(frozen=True)
class Leaf:
    """As much of a node as a schedule looks at."""

    name: str
    parent: Leaf | None = None

    @property
    def key(self):
        return self.name


TRUNK = Leaf("trunk")
LEFT, RIGHT = Leaf("left", TRUNK), Leaf("right", TRUNK)
FAR = Leaf("far", LEFT)


def run(schedule, work, on_cancel=lambda: None):
    """Run it; fail instead of hanging."""
    result = []
    thread = threading.Thread(target=lambda: result.append(schedule.run(work, on_cancel)), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the schedule hangs"
    return result[0]


def test_nothing_to_do():
    assert run(Schedule([], 2), lambda chain: None) == []


def test_a_chain_starts_when_its_parent_is_sealed_not_when_the_chain_of_it_ends():
    schedule = Schedule([(TRUNK, LEFT), (RIGHT,)], 2)
    order = []
    right = threading.Event()

    def work(chain):
        for node in chain:
            order.append(f"{node.name} begins")
            if node is RIGHT:
                right.set()
            if node is LEFT:
                assert right.wait(10), "right waits for left"
            order.append(f"{node.name} ends")
            schedule.sealed(node.key)

    assert run(schedule, work) == []
    assert order.index("trunk ends") < order.index("right begins") < order.index("left ends")


def test_a_parent_that_is_not_part_of_the_build_is_there():
    done = []
    assert run(Schedule([(RIGHT,)], 1), lambda chain: done.append(chain)) == []
    assert done == [(RIGHT,)]


@given(st.integers(1, 4), st.integers(1, 8))
def test_never_more_at_once_than_jobs(limit, count):
    schedule = Schedule([(Leaf(str(number)),) for number in range(count)], limit)
    guard, now, most = threading.Lock(), [0], [0]

    def work(chain):
        with guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.001)
        with guard:
            now[0] -= 1
        schedule.sealed(chain[0].key)

    assert run(schedule, work) == []
    assert 1 <= most[0] <= min(limit, count)


@given(st.data())
def test_every_node_of_any_tree_after_its_parent(data):
    nodes = [TRUNK]
    for number in range(data.draw(st.integers(0, 12))):
        nodes.append(Leaf(str(number), data.draw(st.sampled_from(nodes))))
    schedule = Schedule([(node,) for node in data.draw(st.permutations(nodes))], data.draw(st.integers(1, 4)))
    order = []

    def work(chain):
        order.append(chain[0].name)
        schedule.sealed(chain[0].key)

    assert run(schedule, work) == []
    assert sorted(order) == sorted(node.name for node in nodes)
    for node in nodes[1:]:
        assert order.index(node.parent.name) < order.index(node.name)


def test_a_failure_stops_the_others_and_starts_no_more():
    schedule = Schedule([(TRUNK,), (LEFT,), (FAR,), (Leaf("other"),)], 2)
    begun, killed = [], threading.Event()

    def work(chain):
        begun.append(chain[0].name)
        if chain[0] is TRUNK:
            raise ValueError("broken")
        assert killed.wait(10)
        raise Cancelled

    errors = run(schedule, work, killed.set)
    assert [str(error) for error in errors] == ["broken"]
    assert sorted(begun) == ["other", "trunk"]


def test_keep_going_leaves_out_only_descendants():
    schedule = Schedule([(TRUNK,), (LEFT,), (FAR,), (RIGHT,), (Leaf("other"),)], 2, keep_going=True)
    done = []

    def work(chain):
        if chain[0] is LEFT:
            raise ValueError("broken")
        done.append(chain[0].name)
        schedule.sealed(chain[0].key)

    assert [str(error) for error in run(schedule, work)] == ["broken"]
    assert sorted(done) == ["other", "right", "trunk"]


def test_ctrl_c_comes_out_after_every_worker_is_gone():
    schedule = Schedule([(TRUNK,)], 1)
    killed, ended = threading.Event(), threading.Event()

    def work(chain):
        os.kill(os.getpid(), signal.SIGINT)
        assert killed.wait(10)
        ended.set()
        raise Cancelled

    with pytest.raises(KeyboardInterrupt):
        schedule.run(work, killed.set)
    assert ended.is_set()
    assert schedule.cancelled.is_set()


@pytest.mark.parametrize(("asked", "memory", "expected"), [(3, 1024, 3), (None, 1 << 30, 1)])
def test_jobs(tmp_path, asked, memory, expected):
    assert jobs(Settings(repository=tmp_path, cache=tmp_path, jobs=asked, memory=memory)) == expected
