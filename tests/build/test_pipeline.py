"""A node is sealed while the next one's steps run: whatever happens in between, nothing is lost and nothing wrong."""

import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guests.project import eventually

pytestmark = pytest.mark.vm


@dataclass(frozen=True)
class Gate:
    """A qemu-img of which every seal waits until it is opened, and fails when the disk is *full*."""

    directory: Path

    @property
    def environment(self):
        return {"PATH": f"{self.directory}:{os.environ['PATH']}"}

    def open(self):
        (self.directory / "open").touch()

    def fill(self):
        (self.directory / "full").touch()
        self.open()


@pytest.fixture
def gate(project):
    directory = project.home / "bin"
    directory.mkdir()
    script = directory / "qemu-img"
    script.write_text(
        "#!/bin/sh\n"
        'case " $* " in *" commit -q "*)\n'
        f"  while [ ! -e {directory}/open ]; do sleep 0.05; done\n"
        f"  [ ! -e {directory}/full ] || {{ echo 'qemu-img: No space left on device' >&2; exit 1; }} ;;\n"
        "esac\n"
        f'exec {shutil.which("qemu-img")} "$@"\n'
    )
    script.chmod(0o755)
    return Gate(directory)


FOREVER = ("sleep 0.3", "sleep 1000")


def while_trunk_is_sealed(project, gate, *arguments):
    """A build that seals trunk and runs the second step of left, which does not end."""
    project.edit("left", FOREVER)
    running = project.start("build", "leaf", *arguments, environment=gate.environment)
    running.until("StepStarted", node="left", index=2)
    assert running.events()[-1]["event"] != "NodeSealed"
    assert "trunk" not in project.repository.names()
    return running


def resumed(project):
    """Build again, undisturbed: the first step of each node."""
    project.edit("left", FOREVER[::-1])
    done = project.sfvm("build", "leaf")
    assert done.nodes("NodeSealed") == ["trunk", "left", "leaf"]
    assert project.cat("leaf", "/etc/both") == "round 0\nleft\n"
    assert project.cat("leaf", "/etc/trunk.id") == project.cat("trunk", "/etc/trunk.id") != ""
    project.sound()
    assert list((project.home / "repository" / "work").iterdir()) == []
    return {event["node"]: event["first"] for event in done.all("NodeStarted")}


def test_killed_nothing_that_was_done_is_done_again(project, gate):
    project.kills()
    running = while_trunk_is_sealed(project, gate)
    os.kill(running.process.pid, signal.SIGKILL)
    running.end()
    assert eventually(lambda: not project.processes()), project.processes()
    project.sound()
    assert resumed(project) == {"trunk": 3, "left": 2, "leaf": 1}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted_it_ends_at_once_and_resumes(project, gate, number):
    running = while_trunk_is_sealed(project, gate)
    if number == signal.SIGINT:
        running.interrupt()
    else:
        os.kill(running.process.pid, number)  # sfvm alone: it must end its processes itself
    done = running.end(60)
    project.check(done)
    assert done.status == 128 + number
    assert done.all("NodeFailed") == []  # what was interrupted has not failed
    assert project.leftovers() == []
    assert resumed(project) == {"trunk": 3, "left": 2, "leaf": 1}


def test_a_full_disk_ends_the_chain_with_the_name_of_the_node(project, gate):
    running = while_trunk_is_sealed(project, gate)
    gate.fill()
    done = running.end(60)  # the step of left would take much longer
    project.check(done)
    assert done.status == 1
    assert "node trunk" in done.stderr
    assert "No space left on device" in done.stderr
    assert done.nodes("NodeFailed") == ["trunk"]
    assert resumed(project) == {"trunk": 3, "left": 2, "leaf": 1}


def test_a_failing_child_waits_until_its_parent_is_published(project, gate):
    project.edit("left", ("echo left is done", "exit 7"))
    running = project.start("build", "left", environment=gate.environment)
    running.until("StepStarted", node="left", index=2)
    gate.open()
    done = running.end()
    project.check(done)
    assert done.status == 1
    assert "exit status 7" in done.stderr
    assert done.nodes("NodeSealed") == ["trunk"]
    assert project.sfvm("shell", "left", "--failed", stdin="cat /etc/both").stdout == "round 0\nleft\n"
    project.sound()


def test_branches_begin_when_their_parent_is_published_not_before(project, gate):
    project.edit("left", ("sleep 0.3", "sleep 3"))
    running = project.start("build", "leaf", "right", "--jobs", "2", environment=gate.environment)
    running.until("StepStarted", node="left", index=1)
    assert "right" not in [event.get("node") for event in running.events()]
    gate.open()
    done = running.end()
    project.check(done)
    assert done.status == 0, done.stderr
    order = [
        (event["event"], event["node"]) for event in done.events if event["event"] in ("NodeStarted", "NodeSealed")
    ]
    assert order.index(("NodeStarted", "left")) < order.index(("NodeSealed", "trunk"))
    assert order.index(("NodeSealed", "trunk")) < order.index(("NodeStarted", "right"))
    assert order.index(("NodeSealed", "trunk")) < order.index(("NodeSealed", "left"))
    project.sound()
