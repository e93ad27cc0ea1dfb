"""``lock``, ``--locked``, ``refresh`` and ``update`` where nothing needs a VM."""

from __future__ import annotations

import json

import pytest

from sfvm import tree
from sfvm.downloads.fetched import Fetched
from sfvm.errors import RepositoryError
from sfvm.lock import files
from sfvm.repository import Repository, stamps
from sfvm.repository.kept import Kept
from sfvm.repository.stamps import Stamps


def got(*names, number=1):
    return [
        Fetched(f"http://mirror.test/{name}", f"{number + index:064x}", 5, 0.1, True)
        for index, name in enumerate(names)
    ]


FETCHED = {"web": got("InRelease", "a_1_all.deb"), "leaf": got("b_1_all.deb", number=5)}


@pytest.fixture
def repository(world):
    return Repository(world.home / "repository")


def actions(world, *arguments):
    plan = json.loads(world.run("plan", "leaf", "--json", *arguments).stdout)
    return {entry["name"]: entry["action"] for entry in plan["entries"]}


def states(world):
    return {entry["name"]: (entry["state"], entry["note"]) for entry in json.loads(world.run("tree", "--json").stdout)}


def test_a_lock_of_what_is_built(world, repository):
    world.put("leaf", FETCHED)
    done = world.run("lock", "leaf")
    assert done.stdout == f"{world.specs}/leaf.lock.xml\n", done.stderr
    assert done.stderr == "3 nodes, 2 packages, 1 other file\n"
    lock = files.read(world.specs / "leaf.lock.xml", "leaf")
    assert [section.node for section in lock.sections] == ["root", "web", "leaf"]
    assert Kept(repository.root).all() == lock.digests
    again = (world.specs / "leaf.lock.xml").read_bytes()
    assert world.run("lock", "leaf", "--quiet").stderr == ""
    assert (world.specs / "leaf.lock.xml").read_bytes() == again
    assert "lock" not in " ".join(states(world)), "a lock file is no spec"


def test_a_lock_told_to_a_program(world):
    world.put("leaf", FETCHED)
    path = f"{world.specs}/leaf.lock.xml"
    assert json.loads(world.run("lock", "leaf", "--json", "--quiet").stdout) == [
        {"node": "leaf", "path": path, "nodes": 3, "packages": 2, "files": 1}
    ]


def test_all_locks_of_a_name_keep_what_they_name(world, repository):
    """One for each of two specs that differ, written elsewhere."""
    world.put("leaf", FETCHED)
    world.run("lock", "leaf", "-o", "before")
    world.write("leaf", (world.specs / "leaf.xml").read_text().replace("/srv", "/opt"))
    world.put("leaf", {"leaf": got("c_1_all.deb", number=9)})
    world.run("lock", "leaf", "-o", "now")
    locks = [files.read(world.home / where / "leaf.lock.xml", "leaf").digests for where in ("before", "now")]
    assert locks[0] != locks[1]
    assert Kept(repository.root).all() == locks[0] | locks[1]


def test_what_was_locked_is_not_built_again(world, repository):
    world.put("leaf", FETCHED)
    world.run("lock", "leaf")
    done = world.run("build", "leaf", "--locked", "--offline")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "nothing to do: leaf built already\n")
    assert actions(world, "--locked") == {"leaf": "hit"}


def test_another_repository_builds_what_fetches_under_keys_of_its_own(world, repository):
    world.put("leaf", FETCHED)
    world.run("lock", "leaf", "--output", "locks")
    unlocked = json.loads(world.run("plan", "leaf", "--json").stdout)["entries"][-1]["key"]
    for name in ("leaf", "web"):
        repository.remove(name)
    repository.gc()
    plan = json.loads(world.run("plan", "leaf", "--json", "--locked", "--locks", "locks").stdout)
    assert {entry["name"]: entry["action"] for entry in plan["entries"]} == {
        "root": "hit", "web": "build", "leaf": "build",
    }  # fmt: skip
    assert plan["entries"][-1]["key"] != unlocked


def test_a_node_built_from_its_lock_is_built(world, repository):
    world.put("leaf", FETCHED, {"web": tree.Pin(lock="a" * 64)})
    assert states(world) == {
        "root": ("built", ""), "web": ("built", "from its lock"), "leaf": ("built", "from its lock"),
    } | {name: state for name, state in states(world).items() if name not in ("root", "web", "leaf")}  # fmt: skip
    world.write("leaf", (world.specs / "leaf.xml").read_text().replace("/srv", "/opt"))
    assert states(world)["leaf"][0] == "stale"
    why = world.run("why", "web").stdout
    assert "not locked any more" in why


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["build", "leaf", "--locked"], 2, "leaf is not locked"),
        (["plan", "leaf", "--locked"], 2, "try: sfvm lock leaf"),
        (["build", "leaf", "--locks", "specs"], 2, "--locks says nothing without --locked"),
        (["update", "leaf"], 2, "leaf is not locked"),
        (["refresh", "laef"], 2, "did you mean 'leaf'?"),
        (["lock", "laef"], 2, "did you mean 'leaf'?"),
    ],
)
def test_what_cannot_be(world, arguments, status, says):
    world.put("leaf", FETCHED)
    done = world.run(*arguments)
    assert done.returncode == status
    assert says in done.stderr


def test_a_lock_that_does_not_fit_any_more(world):
    world.put("leaf", FETCHED)
    world.run("lock", "leaf")
    done = world.run("build", "leaf", "--locked", "--param", "site=other")
    assert done.returncode == 1
    assert "web is not what was locked any more" in done.stderr
    assert "its param site was 'example', and is 'other'" in done.stderr
    (world.specs / "leaf.lock.xml").write_text("<lock")
    done = world.run("build", "leaf", "--locked")
    assert done.returncode == 1
    assert "leaf.lock.xml:1:1: not well-formed XML" in done.stderr


def test_what_came_through_a_tunnel_cannot_be_locked(world):
    world.put("leaf", {"web": [Fetched("https://host.test:443", "", 9, 1.0, False)]})
    done = world.run("lock", "leaf")
    assert done.returncode == 1
    assert "node web: what was fetched for it cannot be locked" in done.stderr
    assert not (world.specs / "leaf.lock.xml").exists()


def test_a_refresh_makes_descendants_stale_and_can_be_undone(world, repository):
    world.put("leaf", FETCHED)
    done = world.run("refresh", "web")
    assert (done.returncode, done.stderr) == (0, "to be built: web, leaf\n")
    assert actions(world) == {"root": "hit", "web": "build", "leaf": "build"}
    stamp = Stamps(repository.root).all()["web"]
    assert f"ancestor web: refreshed on purpose, {stamp}" in world.run("why", "leaf").stdout
    assert states(world)["leaf"][0] == "stale"
    assert world.run("refresh", "web", "--undo").stderr == "nothing is to be built\n"
    assert actions(world) == {"leaf": "hit"}


def test_a_lock_says_nothing_of_refreshes(world, repository):
    world.run("refresh", "web", "--quiet")
    stamp = Stamps(repository.root).all()["web"]
    world.put("leaf", FETCHED, {"web": tree.Pin(refreshed=stamp)})
    world.run("lock", "leaf")
    assert stamp not in (world.specs / "leaf.lock.xml").read_text()
    assert actions(world, "--locked") == {"leaf": "hit"}
    world.run("refresh", "web", "--undo")
    assert actions(world, "--locked") == {"root": "hit", "web": "build", "leaf": "build"}


def tried(world, repository, fetched):
    """The stamp of a finished trial of ``leaf``, for which this was *fetched*; ``leaf`` is locked, and as it was."""
    world.put("leaf", FETCHED)
    assert world.run("lock", "leaf").returncode == 0
    names = repository.names()
    stamp = stamps.now()
    Stamps(repository.root, "proposed").set("web", stamp)
    world.put("leaf", fetched, {"web": tree.Pin(refreshed=stamp)})
    for name, key in names.items():
        repository.point(name, key)
    return stamp


def test_a_trial_that_cannot_be_locked_is_given_up(world, repository):
    """It is built already: to take it again would not help."""
    tried(world, repository, {"web": got("InRelease") + got("InRelease", number=2)})
    done = world.run("update", "leaf", "--write")
    assert done.returncode == 1
    assert "node web: what was fetched for it cannot be locked" in done.stderr
    assert "try: sfvm update leaf, again" in done.stderr
    assert Stamps(repository.root, "proposed").all() == {}
    assert Stamps(repository.root).all() == {}


def test_the_lock_is_written_before_the_trial_counts(world, repository, monkeypatch):
    fresh = {"web": got("InRelease", "a_2_all.deb", number=7)}
    stamp = tried(world, repository, fresh)
    names, locked = repository.names(), (world.specs / "leaf.lock.xml").read_bytes()

    def full(*_):
        raise RepositoryError("the lock cannot be written")

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", full)
        assert isinstance(world.invoke("update", "leaf", "--write").exception, RepositoryError)
    assert (repository.names(), Stamps(repository.root).all()) == (names, {})
    assert Kept(repository.root).all() == files.read(world.specs / "leaf.lock.xml", "leaf").digests

    with monkeypatch.context() as patched:
        patched.setattr(Repository, "point", full)
        assert isinstance(world.invoke("update", "leaf", "--write").exception, RepositoryError)
    assert (world.specs / "leaf.lock.xml").read_bytes() != locked
    done = world.run("update", "leaf", "--write")
    assert (done.returncode, done.stdout) == (0, ""), "the same trial goes on"
    assert Stamps(repository.root).all() == {"web": stamp}
    assert Stamps(repository.root, "proposed").all() == {}
    assert repository.names()["leaf"] != names["leaf"]
    assert actions(world, "--locked") == actions(world) == {"leaf": "hit"}


def test_nothing_to_update(world):
    world.put("leaf")
    world.run("lock", "leaf")
    done = world.run("update", "leaf")
    assert done.returncode == 2
    assert "nothing is downloaded for leaf" in done.stderr
