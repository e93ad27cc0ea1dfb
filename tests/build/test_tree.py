"""A small tree of busybox guests, built as users do: ``busybox ─ trunk ┬ left ─ leaf`` and ``trunk ─ right``."""

import json
import os
import signal

import pytest

from sfvm.build import chain as chains
from sfvm.build import scheduler
from sfvm.repository import Repository

pytestmark = pytest.mark.vm


def spans(path):
    """The names of a trace's spans by track."""
    told = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    tracks = {event["tid"]: event["args"]["name"] for event in told if event["name"] == "thread_name"}
    return {name: [e["name"] for e in told if e["ph"] == "X" and e["tid"] == tid] for tid, name in tracks.items()}


def test_only_what_changed_is_built_again(project):
    first = project.sfvm("build", "leaf", "right", "--profile", str(project.home / "trace.json"))
    assert first.all("Planned")[0]["cached"] == ["busybox"]
    assert sorted(first.nodes("NodeSealed")) == ["leaf", "left", "right", "trunk"]
    assert len(first.all("ApplianceStarted")) == 2  # one for each branch
    assert [event["index"] for event in first.all("StepFinished") if event["node"] == "leaf"] == [1, 2, 3]
    assert "left is done" in [event["line"] for event in first.all("Output")]
    assert "left is done" in project.sfvm("log", "left").stdout

    traced = spans(project.home / "trace.json")
    assert traced["sfvm"] == ["start-up", "planning", "appliance image"]
    ending = ["sealing", "hashing", "publishing", "clean-up"]
    first_step, second_step = (event["title"] for event in first.all("StepStarted") if event["node"] == "trunk")
    assert traced["trunk"] == [
        "trunk",
        "appliance",
        first_step,
        "checkpoints",
        second_step,
        "trimming",
        "checkpoints",
        *ending,
    ]
    assert traced["right"][-6:] == ["trimming", "closing", *ending]
    assert {"left", "leaf"} < set(traced)

    again = project.sfvm("build", "leaf", "right")
    assert again.all("ApplianceStarted") == again.all("NodeStarted") == []
    assert "nothing to do" in again.stderr

    repository = project.repository
    before = {name: repository.overlay(key).stat() for name, key in repository.names().items()}
    assert {status.st_mode & 0o777 for status in before.values()} == {0o444}
    project.edit("leaf", ("first", "second"))
    assert "1 node to build, 1 appliance boot" in project.sfvm("plan", "leaf", "right").stdout
    changed = project.sfvm("build", "leaf", "right")
    assert changed.nodes("NodeStarted") == changed.nodes("NodeSealed") == ["leaf"]
    assert len(changed.all("ApplianceStarted")) == 1
    after = {name: repository.overlay(key).stat() for name, key in repository.names().items()}
    assert [name for name in sorted(before) if before[name] != after[name]] == ["leaf"]
    assert project.cat("leaf", "/etc/all") == "second\n"
    assert project.sfvm("run", "leaf", "--", "cat", "/etc/both").stdout == "round 0\nleft\n"

    manifest = repository.manifest(repository.names()["right"])
    assert manifest.packages == (("musl", "1.2.4-r2", "x86_64"), ("zlib", "1.2.13-r1", "x86_64"))
    assert repository.manifest(repository.names()["leaf"]).packages == ()
    project.sound()


def test_a_failed_step_is_explained_shown_and_resumed(project):
    project.write(
        "faulty",
        "busybox",
        '<run network="no">cat /proc/sys/kernel/random/uuid >/etc/id</run>',
        '<run network="no">echo half >/etc/half; echo about to fail; exit 3</run>',
    )
    failed = project.sfvm("build", "faulty", status=1)
    for text in (
        "node faulty",
        "step 2 of 2",
        "faulty.xml:4",
        "about to fail",
        "exit status 3",
        "sfvm shell faulty --failed",
        "resumes at this step",
    ):
        assert text in failed.stderr, text
    assert failed.nodes("NodeFailed") == ["faulty"]
    shown = project.sfvm("shell", "faulty", "--failed", stdin="cat /etc/half /etc/id")
    half, identity = shown.stdout.split()
    assert half == "half"
    assert "about to fail" in project.sfvm("log", "faulty").stdout

    project.edit("faulty", ("exit 3", "exit 0"))
    resumed = project.sfvm("build", "faulty")
    assert [(event["first"], event["steps"]) for event in resumed.all("NodeStarted")] == [(2, 2)]
    assert [event["index"] for event in resumed.all("StepStarted")] == [2]
    assert project.cat("faulty", "/etc/id").strip() == identity  # step 1 was not run again
    project.sound()


@pytest.mark.parametrize(
    ("step", "told"),
    [
        ('<run network="no" timeout="2">echo begun; sleep 1000</run>', "did not end within its timeout"),
        ('<run network="no">fallocate -l 900M /most; dd if=/dev/zero of=/big bs=1M</run>', "No space left on device"),
        ('<run network="no">echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 1000</run>', "panic"),
        ('<run network="no">echo b >/proc/sysrq-trigger; sleep 1000</run>', "appliance died"),
    ],
    ids=["hangs", "fills the disk", "panics", "reboots"],
)
def test_a_step_that(project, step, told):
    project.write("faulty", "busybox", '<file path="/etc/one">1</file>', step)
    failed = project.sfvm("build", "faulty", status=1)
    assert "step 2 of 2" in failed.stderr
    assert told in failed.stderr
    assert "resumes at this step" in failed.stderr
    project.edit("faulty", (step, '<file path="/etc/two">2</file>'))
    resumed = project.sfvm("build", "faulty")
    assert [event["first"] for event in resumed.all("NodeStarted")] == [2]
    assert [project.cat("faulty", path) for path in ("/etc/one", "/etc/two", "/big")] == ["1", "2", ""]
    project.sound()


def test_the_emulator_killed_from_outside(project):
    project.write("faulty", "busybox", '<file path="/etc/one">1</file>', '<run network="no">sleep 1000</run>')
    running = project.start("build", "faulty")
    running.until("StepStarted", index=2)
    (emulator,) = project.emulators()
    os.kill(emulator, signal.SIGKILL)
    done = running.end()
    project.check(done)
    assert done.status == 1
    assert "appliance died" in done.stderr


def test_keep_going_builds_what_does_not_depend_on_the_failure(project):
    project.edit("left", ("echo left is done", "exit 7"))
    done = project.sfvm("build", "leaf", "right", "--jobs", "1", "--on-error", "keep-going", status=1)
    assert sorted(done.nodes("NodeSealed")) == ["right", "trunk"]
    assert done.nodes("NodeFailed") == ["left"]
    assert "exit status 7" in done.stderr
    assert "leaf" not in done.nodes("NodeStarted")


def test_two_processes_do_the_work_once(project):
    project.write("slow", "busybox", '<run network="no">sleep 8</run>', '<file path="/etc/slow">x</file>')
    first = project.start("build", "slow")
    first.until("StepStarted", node="slow")
    second = project.sfvm("build", "slow")
    ended = first.end()
    assert ended.status == 0, ended.stderr
    (waited,) = second.all("Waiting")
    assert second.nodes("NodeFound") == ["slow"]
    assert waited["node"] == "slow"
    assert f"pid {first.process.pid} (" in waited["holder"]
    assert "build slow" in waited["holder"]
    assert second.all("ApplianceStarted") == second.all("NodeSealed") == []
    assert ended.nodes("NodeSealed") == ["slow"]
    project.sound()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_resumes(project, number):
    slow = '<run network="no">sleep 1000</run>'
    project.write("slow", "busybox", '<run network="no">cat /proc/sys/kernel/random/uuid >/etc/id</run>', slow)
    running = project.start("build", "slow", "--profile", str(project.home / "trace.json"))
    running.until("StepStarted", index=2)
    running.interrupt(number)
    done = running.end()
    project.check(done)
    assert done.status == 128 + number
    assert "interrupted" in done.stderr
    assert project.leftovers() == []
    assert "run sleep 1000" in spans(project.home / "trace.json")["slow"]
    project.edit("slow", (slow, '<file path="/etc/two">2</file>'))
    assert [event["first"] for event in project.sfvm("build", "slow").all("NodeStarted")] == [2]
    project.sound()


def test_interrupted_while_the_appliance_boots(project):
    running = project.start("build", "trunk")
    running.until("NodeStarted")
    running.interrupt()
    done = running.end()
    project.check(done)
    assert done.status == 130
    assert project.leftovers() == []
    project.sfvm("build", "trunk")
    project.sound()


def test_a_chain_longer_than_one_appliance_may_have(project, monkeypatch):
    """Limits lowered: the appliance is started anew on the sealed node, and deep nodes stand on flattened twins."""
    from sfvm import config, tree
    from sfvm.build import build
    from sfvm.spec.library import Library

    monkeypatch.setattr(chains, "MAX_FILES", 4)
    monkeypatch.setattr(Repository.backing, "__defaults__", (4,))
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    parent = "busybox"
    for depth in range(7):
        project.write(f"deep{depth}", parent, f'<run network="no">echo {depth} >>/etc/depth</run>')
        parent = f"deep{depth}"
    settings = config.load(specs=[project.specs])
    repository = project.repository
    nodes = tree.resolve(Library(settings.specs), [parent], {})
    events = []
    build(tree.plan(nodes, [parent], repository), repository, settings, events.append)
    boots = [event for event in events if type(event).__name__ == "ApplianceStarted"]
    assert 1 < len(boots) < 7
    assert list((project.home / "repository" / "layers").glob("*.flat.qcow2"))
    assert max(len(repository.files(node.key)) for node in nodes) <= 4
    assert project.cat(parent, "/etc/depth").split() == list("0123456")
    project.sound()


def test_branches_are_built_at_the_same_time(project):
    project.sfvm("build", "trunk")
    done = project.sfvm("build", "left", "right", "--jobs", "2")
    moments = {(event["event"], event["node"]): event["time"] for event in done.events if "node" in event}
    assert moments["NodeStarted", "right"] < moments["NodeSealed", "left"]
    assert moments["NodeStarted", "left"] < moments["NodeSealed", "right"]
    assert scheduler.available_memory() > 0
