"""The order of chains, without any VM: what may start when, how many at once, and what a failure or Ctrl-C does."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm.build.scheduler import Job, Schedule, limit
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


def jobs_of(chains, work):
    """A job for each chain, as a build makes them."""
    return [
        Job(
            chain[0].name,
            chain[0].parent.key if chain[0].parent else None,
            lambda stop, at_once, chain=chain: work(chain, stop),
        )
        for chain in chains
    ]


def schedule_of(chains, limit, work, **more):
    return Schedule(jobs_of(chains, work), limit, [node.key for chain in chains for node in chain], **more)


def run(schedule):
    """Run it; fail instead of hanging."""
    result = []
    thread = threading.Thread(target=lambda: result.append(schedule.run()), daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "the schedule hangs"
    return result[0]


def test_nothing_to_do():
    assert run(Schedule([], 2)) == []


def test_a_chain_starts_when_its_parent_is_sealed_not_when_the_chain_of_it_ends():
    order = []
    right = threading.Event()

    def work(chain, stop):
        for node in chain:
            order.append(f"{node.name} begins")
            if node is RIGHT:
                right.set()
            if node is LEFT:
                assert right.wait(10), "right waits for left"
            order.append(f"{node.name} ends")
            schedule.sealed(node.key)

    schedule = schedule_of([(TRUNK, LEFT), (RIGHT,)], 2, work)
    assert run(schedule) == []
    assert order.index("trunk ends") < order.index("right begins") < order.index("left ends")


def test_a_parent_that_is_not_part_of_the_build_is_there():
    done = []
    assert run(schedule_of([(RIGHT,)], 1, lambda chain, stop: done.append(chain))) == []
    assert done == [(RIGHT,)]


def test_the_first_that_may_begin_begins_first():
    """A job that uses a node does not wait for chains that could have begun before it was sealed."""
    order = []

    def work(chain, stop):
        order.append(chain[0].name)
        schedule.sealed(chain[0].key)

    chains = [(TRUNK,), (Leaf("other"),)]
    user = Job("user", TRUNK.key, lambda stop, at_once: order.append("user"))
    schedule = Schedule([user, *jobs_of(chains, work)], 1, [chain[0].key for chain in chains])
    assert run(schedule) == []
    assert order.index("trunk") < order.index("user")
    assert len(order) == 3


@given(st.integers(1, 4), st.integers(1, 8))
def test_never_more_at_once_than_jobs(limit, count):
    guard, now, most = threading.Lock(), [0], [0]

    def work(chain, stop):
        with guard:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.001)
        with guard:
            now[0] -= 1
        schedule.sealed(chain[0].key)

    schedule = schedule_of([(Leaf(str(number)),) for number in range(count)], limit, work)
    assert run(schedule) == []
    assert 1 <= most[0] <= min(limit, count)


@given(st.data())
def test_every_node_of_any_tree_after_its_parent(data):
    nodes = [TRUNK]
    for number in range(data.draw(st.integers(0, 12))):
        nodes.append(Leaf(str(number), data.draw(st.sampled_from(nodes))))
    order = []

    def work(chain, stop):
        order.append(chain[0].name)
        schedule.sealed(chain[0].key)

    chains = [(node,) for node in data.draw(st.permutations(nodes))]
    schedule = schedule_of(chains, data.draw(st.integers(1, 4)), work)
    assert run(schedule) == []
    assert sorted(order) == sorted(node.name for node in nodes)
    for node in nodes[1:]:
        assert order.index(node.parent.name) < order.index(node.name)


def test_a_failure_stops_the_others_and_starts_no_more():
    begun = []

    def work(chain, stop):
        begun.append(chain[0].name)
        killed = threading.Event()
        with stop.killing(killed.set):
            if chain[0] is TRUNK:
                raise ValueError("broken")
            assert killed.wait(10)
            raise RuntimeError("killed")

    schedule = schedule_of([(TRUNK,), (LEFT,), (FAR,), (Leaf("other"),)], 2, work)
    assert [str(error) for error in run(schedule)] == ["broken"]
    assert sorted(begun) == ["other", "trunk"]


def test_keep_going_leaves_out_only_descendants():
    done = []

    def work(chain, stop):
        if chain[0] is LEFT:
            raise ValueError("broken")
        done.append(chain[0].name)
        schedule.sealed(chain[0].key)

    chains = [(TRUNK,), (LEFT,), (FAR,), (RIGHT,), (Leaf("other"),)]
    schedule = schedule_of(chains, 2, work, keep_going=True)
    assert [str(error) for error in run(schedule)] == ["broken"]
    assert sorted(done) == ["other", "right", "trunk"]


def test_ctrl_c_comes_out_after_every_worker_is_gone():
    ended = threading.Event()

    def work(chain, stop):
        killed = threading.Event()
        with stop.killing(killed.set):
            os.kill(os.getpid(), signal.SIGINT)
            assert killed.wait(10)
            ended.set()
            stop.check()

    schedule = schedule_of([(TRUNK,)], 1, work)
    with pytest.raises(KeyboardInterrupt):
        schedule.run()
    assert ended.is_set()
    assert schedule.stop.asked()


@pytest.mark.parametrize(("asked", "memory", "expected"), [(3, 1024, 3), (None, 1 << 30, 1)])
def test_limit(tmp_path, asked, memory, expected):
    assert limit(Settings(repository=tmp_path, cache=tmp_path, jobs=asked, memory=memory)) == expected


def test_appliances_that_run_at_once_share_the_cpus(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    settings = Settings(repository=tmp_path, cache=tmp_path)
    assert [settings.cpus_each(number) for number in (1, 2, 3, 6, 9)] == [4, 3, 2, 1, 1]
    assert dataclasses.replace(settings, cpus=5).cpus_each(3) == 5


def test_a_job_is_told_how_many_run_with_it():
    told, together = {}, threading.Barrier(2)

    def work(leaf, stop, at_once):
        told[leaf.name] = at_once
        if leaf is not TRUNK:
            together.wait(20)
        schedule.sealed(leaf.key)

    leaves = (TRUNK, LEFT, RIGHT)
    jobs = [Job(leaf.name, leaf.parent and leaf.parent.key, functools.partial(work, leaf)) for leaf in leaves]
    schedule = Schedule(jobs, 2, [leaf.key for leaf in leaves])
    assert run(schedule) == []
    assert told == {"trunk": 1, "left": 2, "right": 2}
