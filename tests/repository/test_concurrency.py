"""Several processes and threads: one writer per key, gc beside builds, and kills at any instant."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from sfvm import qcow2
from sfvm.errors import RepositoryError
from sfvm.repository import LockCancelled, Repository
from sfvm.repository.collection import leased
from sfvm.repository.files import holder

FORK = multiprocessing.get_context("fork")


def holding(root, key, ready, release):
    with Repository(root).lock(key, lambda holder: None):
        ready.set()
        release.wait(120)


def test_the_second_process_waits_and_is_told_for_whom(repository):
    ready, release = FORK.Event(), FORK.Event()
    first = FORK.Process(target=holding, args=(repository.root, "a" * 64, ready, release))
    first.start()
    try:
        assert ready.wait(120)
        told = []

        def tell(holder):
            told.append(holder)
            release.set()

        with repository.lock("a" * 64, tell):
            assert len(told) == 1
        assert f"pid {first.pid} (" in told[0]
        assert "since" in told[0]
    finally:
        release.set()
        first.join(120)


def test_waiting_can_be_cancelled(repository):
    cancelled = threading.Event()
    with (
        repository.lock("a" * 64, lambda holder: None),
        pytest.raises(LockCancelled),
        repository.lock("a" * 64, lambda holder: cancelled.set(), cancelled.is_set),
    ):
        pytest.fail("two have the lock")


def test_waiting_can_be_interrupted_by_a_signal(repository):
    script = (
        "import sys; from pathlib import Path; from sfvm.repository import Repository\n"
        "with Repository(Path(sys.argv[1])).lock('a' * 64, lambda holder: print('waiting', flush=True)): pass\n"
    )
    with repository.lock("a" * 64, lambda holder: None):
        command = [sys.executable, "-c", script, str(repository.root)]
        waiting = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert waiting.stdout.readline() == b"waiting\n"
        waiting.send_signal(signal.SIGINT)
        _, errors = waiting.communicate(timeout=120)
    assert b"KeyboardInterrupt" in errors


def test_a_dead_process_holds_nothing(repository):
    ready, release = FORK.Event(), FORK.Event()
    first = FORK.Process(target=holding, args=(repository.root, "a" * 64, ready, release))
    first.start()
    assert ready.wait(120)
    first.kill()
    first.join(120)
    with repository.lock("a" * 64, lambda holder: pytest.fail(f"waits for {holder}")):
        pass


def test_threads_exclude_each_other_too(repository):
    inside, most = [], []

    def work():
        for _ in range(5):
            with repository.lock("a" * 64, lambda holder: None):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 20
    assert max(most) == 1


def naming(root, start):
    repository = Repository(root)
    for number in range(start, 40, 2):
        repository.point("web", f"{number:064x}")


def test_no_line_of_a_names_history_is_lost(repository):
    writers = [FORK.Process(target=naming, args=(repository.root, start)) for start in (0, 1)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert sorted(int(key, 16) for _, key in repository.history("web")) == list(range(40))


# Garbage


def test_gc_keeps_what_a_name_or_a_descendant_needs(repository, add):
    root = add(repository, "root", pointed=False)
    middle = add(repository, "middle", root, pointed=False)
    leaf = add(repository, "leaf", middle)
    add(repository, "old", root, pointed=False)
    preview = repository.gc(dry_run=True)
    assert [name for _, name in preview.nodes] == ["old"]
    assert len(repository.built_keys()) == 4
    assert repository.gc() == preview
    assert repository.built_keys() == {root, middle, leaf}
    repository.remove("leaf")
    assert [name for _, name in repository.gc().nodes] == ["leaf", "middle", "root"]
    assert repository.built_keys() == frozenset()
    assert list(repository.layers.iterdir()) == []
    assert repository.gc().files == 0


def test_gc_frees_what_a_name_stood_for_before(repository, add):
    add(repository, "web")
    current = add(repository, "web", key="a" * 64)
    repository.gc()
    assert repository.built_keys() == {current}


def leasing(root, key, ready, release):
    with Repository(root).lease([key]):
        ready.set()
        release.wait(120)


def test_gc_keeps_what_a_running_process_has_leased(repository, add):
    root = add(repository, "root", pointed=False)
    leaf = add(repository, "leaf", root, pointed=False)
    work = repository.work(leaf, "leaf")
    work.begin(root, None, None, 1)
    ready, release = FORK.Event(), FORK.Event()
    process = FORK.Process(target=leasing, args=(repository.root, leaf, ready, release))
    process.start()
    assert ready.wait(120)
    assert repository.gc(work_age=0).nodes == ()
    assert work.directory.exists()
    process.kill()  # its lease dies with it
    process.join(120)
    assert len(repository.gc(work_age=0).nodes) == 2
    assert not work.directory.exists()
    assert list((repository.root / "lock" / "leases").iterdir()) == []


def test_gc_frees_old_work_and_leftovers(repository, add, set_back):
    add(repository, "web")
    for key in ("1" * 64, "2" * 64):
        repository.work(key, "unfinished").begin("b" * 64, None, None, 1)
    set_back(repository.root / "work" / ("1" * 64) / "journal", 3600)
    dead = subprocess.Popen(["true"])
    dead.wait()
    for name, age in ((f"x.{dead.pid}.abc", 3600), (f"y.{os.getpid()}.abc", 3600), (f"z.{dead.pid}.abc", 0)):
        (repository.root / "tmp" / name).write_text("")
        set_back(repository.root / "tmp" / name, age)
    removed = repository.gc(work_age=1800)
    assert removed.work == ("unfinished",)
    assert [path.name for path in (repository.root / "work").iterdir()] == ["2" * 64]
    assert sorted(path.name[0] for path in (repository.root / "tmp").iterdir()) == ["y", "z"]


def test_gc_leaves_alone_what_is_not_called_like_sfvms_own(repository, add, set_back):
    add(repository, "web")
    foreign = [
        repository.root / name
        for name in ("work/thesis", "quarantine/evidence", "finished/report", f"finished/{'a' * 64}", "tmp/draft.odt")
    ]
    own = [
        repository.root / name
        for name in (
            f"work/{'1' * 64}",
            f"quarantine/{'1' * 64}.qcow2",
            "quarantine/name-\n",
            f"finished/{'1' * 64}.{'2' * 16}",
            "tmp/visit-a_b1c2d3",
        )
    ]
    for path in (*foreign, *own):
        path.mkdir(parents=True)
        (path / "content").write_text("years of work")
        for old in (path / "content", path):
            set_back(old, 400 * 86400.0)
    repository.gc()
    assert [path for path in (*foreign, *own) if path.exists()] == foreign


def test_gc_keeps_the_twins_that_finished_nodes_name(repository, add, set_back):
    """A bundle of a deep node needs no child of it."""
    keys = [add(repository, name) for name in ("deep", "other")]
    twins = [repository.flatten(key) for key in keys]
    finished = repository.root / "finished" / f"{keys[0]}.{'f' * 16}"
    finished.mkdir(parents=True)
    qcow2.create(finished / "filesystem.qcow2", backing=twins[0])
    repository.gc()
    assert [twin.exists() for twin in twins] == [True, False]
    set_back(finished, 8 * 86400.0)
    preview = repository.gc(dry_run=True)
    assert repository.gc() == preview
    assert [twin.exists() for twin in twins] == [False, False]


def building(root, add, seed, rounds):
    repository = Repository(root)
    dice = random.Random(seed)
    for number in range(rounds):
        keys = [f"{seed:032x}{number:030x}{level:02x}" for level in range(3)]
        with repository.lease(keys):
            parent = None
            for level, key in enumerate(keys):
                byte = dice.randrange(1, 255)
                parent = add(repository, f"n{seed}-{level}", parent, key=key, commands=[f"write -P {byte} 0 64k"])
                repository.manifest(parent)


def test_builds_and_gc_side_by_side(repository, add):
    repository.make()
    builders = [FORK.Process(target=building, args=(repository.root, add, seed, 3)) for seed in (1, 2)]
    for builder in builders:
        builder.start()
    collections = 0
    while any(builder.is_alive() for builder in builders):
        repository.gc(work_age=0)
        collections += 1
        time.sleep(0.02)
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert collections
    assert repository.verify() == ()
    assert len(repository.names()) == 6


# Kills


@pytest.mark.parametrize("seed", range(8))
def test_killed_at_any_instant(repository, add, seed):
    """A writer (builds, gc, and names) is killed: nothing sealed is lost, verify is clean, and all goes on."""
    kept = add(repository, "kept")
    child = add(repository, "child", kept, commands=["write -P 3 1M 64k"])
    dice = random.Random(seed)

    def busy():
        for number in itertools.count():  # until it is killed
            building(repository.root, add, seed + 100 * number, 1)
            for name in [name for name in repository.names() if name.startswith("n")][:2]:
                repository.remove(name)
            repository.gc(work_age=0)

    writer = FORK.Process(target=busy)
    writer.start()
    time.sleep(dice.uniform(0.0, 1.2))
    writer.kill()
    writer.join(120)
    assert writer.exitcode == -signal.SIGKILL
    again = Repository(repository.root)
    assert [str(problem) for problem in again.verify() if problem.serious] == []
    assert again.built(kept) and again.built(child)
    assert {again.names()["kept"], again.names()["child"]} == {kept, child}
    again.gc(work_age=0)
    building(again.root, add, seed, 1)
    strays = [problem for problem in again.verify() if problem.path.parent.name != "tmp"]
    assert strays == []


def test_a_lease_that_ends_while_gc_looks_is_no_error(tmp_path, monkeypatch):
    repository = Repository(tmp_path / "repository")
    repository.make()
    lease = repository.root / "lock" / "leases" / "1-ended"
    lease.write_text('{"keys": []}')

    def taken_and_gone(path, **_):
        path.unlink()
        return  # held when asked, gone when read

    monkeypatch.setattr("sfvm.repository.collection.Lock.take", taken_and_gone)
    assert leased(repository) == set()


def test_a_lease_of_a_command_that_is_no_utf_8(repository, add, monkeypatch):
    """What Python makes of such bytes, it does not write as UTF-8, nor read from JSON."""
    key = add(repository, "web", pointed=False)
    monkeypatch.setattr(sys, "argv", ["sfvm", "build", os.fsdecode(b"web\xff")])
    with repository.lease([key]), repository.lock(key, pytest.fail):
        assert repository.gc().nodes == ()
        assert "build 'web\\udcff'" in holder(repository.root / "lock" / key)


@pytest.mark.parametrize("content", ["", "[" * 200_000, "{}", "5"])
def test_a_lease_that_does_not_say_what_it_keeps_is_an_error(tmp_path, monkeypatch, content):
    repository = Repository(tmp_path / "repository")
    repository.make()
    (repository.root / "lock" / "leases" / "1-held").write_text(content)
    monkeypatch.setattr("sfvm.repository.collection.Lock.take", lambda path: None)
    with pytest.raises(RepositoryError, match="1-held is damaged"):
        leased(repository)
