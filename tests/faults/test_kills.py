"""``kill -9`` of sfvm and of QEMU at random instants of a build: nothing sealed is lost, and the build goes on."""

import contextlib
import os
import random
import signal
import time

import pytest

pytestmark = pytest.mark.vm

KILLS = 20
SEED = int(os.environ.get("SFVM_TEST_SEED", str(time.time_ns() % 100_000)))


def test_twenty_kills(project):
    """Each build is killed at an instant of the time that an undisturbed one takes, sfvm and QEMU in turn. A build that
    comes to its end all the same is begun anew with another param, which concerns the whole tree."""
    project.killed = True
    print(f"SFVM_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    began = time.monotonic()
    project.sfvm("build", "leaf", "right")
    whole = time.monotonic() - began
    rounds, sealed, resumed = 1, set(), 0
    for kill in range(KILLS):
        running = project.start("build", "leaf", "right", "--param", f"round={rounds}")
        victim = "sfvm" if kill % 2 else "QEMU"
        moment = chance.uniform(0.2 if victim == "sfvm" else 0.4, 1.0) * whole
        deadline = time.monotonic() + moment
        while running.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        victims = [running.process.pid] if victim == "sfvm" else project.emulators()[:1]
        for number in victims:
            with contextlib.suppress(ProcessLookupError):  # the appliance was just closed
                os.kill(number, signal.SIGKILL)
        done = running.end(timeout=60)
        project.check(done)
        print(f"kill {kill}: {victim} after {moment:.1f} s: exit status {done.status}")
        if done.status == 0:
            rounds += 1
            sealed.clear()
        elif victim == "QEMU" and victims:
            assert done.status == 1, done.stderr
        resumed += any(event["first"] > 1 for event in done.all("NodeStarted"))
        again = sealed & set(done.nodes("NodeSealed"))
        assert not again, f"sealed already, and built again: {again}"
        sealed |= set(done.nodes("NodeSealed")) if done.status else set()
        project.sound()
    assert resumed, "no build resumed at a checkpoint"
    last = project.sfvm("build", "leaf", "right", "--param", f"round={rounds}")
    assert not sealed & set(last.nodes("NodeSealed"))
    assert project.cat("leaf", "/etc/both") == f"round {rounds}\nleft\n"
    assert project.cat("leaf", "/etc/all") == "first\n"
    project.sfvm("gc")
    assert project.sfvm("verify").stderr.strip() == "everything is sound"
