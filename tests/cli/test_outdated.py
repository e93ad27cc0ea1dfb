"""``tree --outdated`` where package managers are stood in for."""

from __future__ import annotations

import json
import signal

import pytest

from sfvm.build import outdated
from sfvm.cli import main
from sfvm.errors import Interrupted, StepError
from sfvm.managers.waiting import Waiting
from sfvm.repository import Repository
from tests.cli.conftest import World

NEWER = Waiting("nginx", "1.2", "1.3", True)
OTHER = """<filesystem xmlns="urn:sfvm:1" name="other" parent="root">
  <steps><directory path="/opt"/></steps>
</filesystem>
"""


@pytest.fixture
def tree(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """``leaf`` on ``web`` on ``root``, and ``other`` on ``root``: that one tells, ``leaf`` cannot."""
    world.write("other", OTHER)
    for name in ("leaf", "other"):
        world.put(name)

    def look(manifest, *_):
        if manifest.name == "leaf":
            raise StepError("the guest has no package manager", hint="begin with another base")
        return (NEWER,)

    monkeypatch.setattr(outdated, "look", look)
    return world


def test_a_node_that_cannot_be_asked_does_not_stop_the_others(tree: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "--outdated", "--json"]) == 1
    out, err = capsys.readouterr()
    entries = {entry["name"]: entry for entry in json.loads(out)}
    newer = [{"name": "nginx", "before": "1.2", "after": "1.3", "security": True}]
    found = [entries[name].get("waiting") for name in ("root", "other", "web", "leaf")]
    assert found == [newer, newer, None, None]
    why = "cannot be asked: node leaf: the guest has no package manager"
    assert (entries["web"]["note"], entries["leaf"]["note"]) == (why, why)
    assert err == "error: node leaf: the guest has no package manager\n  try: begin with another base\n"
    assert main(["tree", "--outdated"]) == 1
    out = capsys.readouterr().out
    assert (out.count(why), out.count("1 newer, 1 security")) == (2, 2)


def test_all_were_asked(tree: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tree", "other", "--outdated"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "cannot" not in out


def test_a_damaged_manifest_does_not_stop_the_others(tree: World, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository(tree.home / "repository")
    path = repository.nodes / f"{repository.current('leaf')}.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"name": "leaf"', '"name": "/eaf"', 1))
    assert main(["tree", "--outdated", "--json"]) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert ["waiting" in entries[name] for name in ("root", "web", "other", "leaf")] == [True, True, True, False]


def test_an_interrupt_stops_it(tree: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(outdated, "look", look)
    assert main(["tree", "--outdated"]) == 128 + signal.SIGINT
