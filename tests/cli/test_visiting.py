"""What `sfvm run` and `shell` hand to the appliance; the appliance itself has tests of its own."""

from __future__ import annotations

import pytest

from sfvm.build import visit
from sfvm.repository import Repository


@pytest.fixture
def calls(monkeypatch):
    seen = []

    def fake(key, repository, settings, listener, command=None):
        seen.append((key, settings.connection, command))
        return 5

    monkeypatch.setattr(visit, "visit", fake)
    return seen


@pytest.mark.parametrize(
    ("arguments", "connection", "command"),
    [
        (["run", "web", "--", "ls", "-l", "--verbose"], "auto", "ls -l --verbose"),
        (["run", "web", "--connection", "direct", "--", "cat", "a file"], "direct", "cat 'a file'"),
        (["run", "web", "ls / | wc -l"], "auto", "ls / | wc -l"),
        (["shell", "web"], "auto", None),
    ],
)
def test_the_command_and_its_status_pass_through(world, calls, arguments, connection, command):
    key = "a" * 64
    Repository(world.home / "repository").point("web", key)
    from sfvm.cli import main

    assert main(arguments) == 5
    assert calls == [(key, connection, command)]


def test_a_node_that_is_not_built(world):
    result = world.run("run", "web", "--", "true")
    assert result.returncode == 2
    assert "sfvm build web" in result.stderr


def test_no_failed_build(world):
    result = world.run("shell", "web", "--failed")
    assert result.returncode == 2
    assert "no failed build of web" in result.stderr


@pytest.fixture
def entered(monkeypatch):
    """What is looked at: the overlay, the node's name and facts."""
    seen = []
    monkeypatch.setattr(visit, "_enter", lambda backing, name, facts, *_: seen.append((backing, name, facts)) or 0)
    return seen


def test_a_failed_build_with_a_param_is_looked_at_as_the_failure_says(world, fail, entered):
    """``sfvm shell web --failed`` and ``sfvm log web``, which know no params; nor does what else is called so."""
    older = fail("web", 200, {}, site="older")
    overlay = fail("web", 100, {"release": "12"}, site="other")
    fail("leaf", 0, {})
    from sfvm.cli import main

    assert main(["shell", "web", "--failed"]) == 0
    assert entered.pop() == (overlay, "web", {"release": "12"})
    own = fail("web", 300, {})
    assert main(["shell", "web", "--failed"]) == 0
    assert entered.pop()[0] == own  # the spec as it is now comes first
    own.unlink()
    overlay.unlink()
    assert main(["shell", "web", "--failed"]) == 0
    assert entered.pop()[0] == older


def test_a_failed_build_of_a_spec_that_needs_a_param(world, fail, entered):
    text = (world.specs / "web.xml").read_text().replace(' default="example"', "")
    world.write("web", text)
    overlay = fail("web", 0, {"release": "12"}, site="given")
    from sfvm.cli import main

    assert main(["shell", "web", "--failed"]) == 0
    assert entered == [(overlay, "web", {"release": "12"})]
    assert world.run("log", "web").stdout == "web failed, site=given\n"
