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
