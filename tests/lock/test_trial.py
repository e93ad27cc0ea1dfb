"""Which build an update looks at: one that goes on, one that was shown before, or a new one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sfvm import tree
from sfvm.errors import UsageError
from sfvm.lock import model
from sfvm.lock.model import Lock
from sfvm.lock.trial import Trial, prepare
from sfvm.repository import Repository
from sfvm.repository.stamps import Stamps
from sfvm.spec.library import Library
from sfvm.tree import Node, Pin
from tests.lock.conftest import fetched, manifest

OLD = "2001-01-01T00:00:00.000000Z"


class World:
    """``leaf`` on ``middle`` on ``root``, in the repository *home*, where everything counts as *built*, or nothing."""

    def __init__(self, home: Path, specs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.library = Library([specs])
        self.repository = Repository(home)
        self.plain: tuple[Node, ...] = tree.resolve(self.library, ["leaf"], {})
        self.built = False
        monkeypatch.setattr(self.repository, "built", lambda key: self.built)

    def lock(self, *fetching: str) -> Lock:
        got = [fetched("InRelease", 1)]
        built = {node.name: manifest(node, got if node.name in fetching else ()) for node in self.plain}
        return model.make(self.plain, built)

    def prepare(self, *, accepted: bool, current: dict[str, Pin] | None = None, lock: Lock | None = None) -> Trial:
        before = lock or self.lock("middle")
        return prepare(self.library, self.plain, {}, before, current or {}, self.repository, accepted=accepted)

    @property
    def proposed(self) -> dict[str, str]:
        return dict(Stamps(self.repository.root, "proposed").all())


@pytest.fixture
def world(tmp_path: Path, specs: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "repository", specs, monkeypatch)


def test_what_fetches_first_is_refreshed(world: World) -> None:
    trial = world.prepare(accepted=False)
    assert [node.pin for node in trial.nodes] == [Pin(trial=True), Pin(trial.stamp, trial=True), Pin(trial=True)]
    assert [one.key == other.key for one, other in zip(trial.nodes, world.plain, strict=True)] == [True, False, False]
    assert world.proposed == {"middle": trial.stamp}
    assert world.prepare(accepted=False, lock=world.lock("leaf")).first == "leaf"


def test_a_spec_that_was_changed_may_fetch_now(world: World) -> None:
    lock = world.lock("leaf")
    changed = Lock((replace(lock.sections[0], key="0" * 64), *lock.sections[1:]))
    assert world.prepare(accepted=False, lock=changed).first == "root"
    assert world.prepare(accepted=False, lock=Lock(lock.sections[1:])).first == "root"


def test_other_refreshes_stay(world: World) -> None:
    trial = world.prepare(accepted=False, current={"leaf": Pin("then"), "middle": Pin("then")})
    assert [node.pin.refreshed for node in trial.nodes] == ["", trial.stamp, "then"]


def test_what_was_interrupted_goes_on(world: World) -> None:
    first = world.prepare(accepted=False)
    assert world.prepare(accepted=False).stamp == first.stamp
    assert world.prepare(accepted=True).stamp == first.stamp
    hours = (datetime.now(UTC) - timedelta(hours=2)).isoformat().replace("+00:00", "Z")
    Stamps(world.repository.root, "proposed").set("middle", hours)
    assert world.prepare(accepted=False).stamp != hours, "not when it is old: it would not be what there is now"


def test_what_was_shown_is_taken_and_else_there_is_a_new_one(world: World) -> None:
    first = world.prepare(accepted=False)
    world.built = True
    assert world.prepare(accepted=True).stamp == first.stamp
    second = world.prepare(accepted=False)
    assert second.stamp != first.stamp
    Stamps(world.repository.root, "proposed").set("middle", OLD)
    assert world.prepare(accepted=True).stamp == OLD, "what was shown, however long ago"


def test_once_accepted_it_is_what_the_names_stand_for(world: World) -> None:
    trial = world.prepare(accepted=True)
    trial.accept(world.repository)
    assert world.proposed == {}
    assert Stamps(world.repository.root).all() == {"middle": trial.stamp}
    assert world.repository.names() == {node.name: node.key for node in trial.nodes}
    now = tree.resolve(world.library, ["leaf"], {}, {"middle": Pin(trial.stamp)})
    assert [node.key for node in now] == [node.key for node in trial.nodes]


def test_nothing_is_downloaded(world: World) -> None:
    with pytest.raises(UsageError, match="nothing is downloaded for leaf"):
        world.prepare(accepted=False, lock=world.lock())
