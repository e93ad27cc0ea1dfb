"""``kill -9`` of sfvm and of QEMU at random instants of a build: nothing sealed is lost, and the build goes on."""

import contextlib
import os
import random
import signal
import time

import pytest

from tests.guests.project import eventually

pytestmark = pytest.mark.vm

KILLS = 20
SEED = int(os.environ.get("SFVM_TEST_SEED", str(time.time_ns() % 100_000)))


def kill(project, running, victim, moment):
    """Kill *victim*, *moment* seconds from now; whether it was there to be killed."""
    eventually(lambda: running.process.poll() is not None, moment)
    alive = eventually(lambda: running.process.poll() is not None or victim == "sfvm" or project.emulators())
    victims = [running.process.pid] if victim == "sfvm" else alive if isinstance(alive, list) else []
    if running.process.poll() is not None or not victims:
        return False
    with contextlib.suppress(ProcessLookupError):  # an appliance was closed just now
        os.kill(victims[0], signal.SIGKILL)
    return True


def test_twenty_kills(project):
    """Each build is killed at an instant of the time that an undisturbed one takes, sfvm and QEMU in turn. A build that
    comes to its end all the same is begun anew with another param, which concerns the whole tree."""
    project.kills()
    print(f"SFVM_TEST_SEED={SEED}")
    chance = random.Random(SEED)
    began = time.monotonic()
    project.sfvm("build", "leaf")
    whole = time.monotonic() - began
    rounds, kills, sealed = 1, 0, set()
    while kills < KILLS:
        running = project.start("build", "leaf", "--param", f"round={rounds}")
        victim, moment = ("sfvm", "QEMU")[kills % 2], chance.uniform(0.05, 0.9) * whole
        kills += kill(project, running, victim, moment)
        done = running.end()
        project.check(done)
        print(f"kill {kills}: {victim} after {moment:.1f} s of {whole:.1f}: exit status {done.status}")
        assert done.status in (0, -signal.SIGKILL) if victim == "sfvm" else done.status in (0, 1), done.stderr
        again = sealed & set(done.nodes("NodeSealed"))
        assert not again, f"sealed already, and built again: {again}"
        sealed |= set(done.nodes("NodeSealed"))
        project.sound()
        if done.status == 0:
            rounds += 1
            sealed.clear()
    last = project.sfvm("build", "leaf", "--param", f"round={rounds}")
    assert not sealed & set(last.nodes("NodeSealed"))
    assert project.cat("leaf", "/etc/both") == f"round {rounds}\nleft\n"
    assert project.cat("leaf", "/etc/all") == "first\n"
    project.sfvm("gc")
    assert project.sfvm("verify").stderr.strip() == "everything is sound"


@pytest.mark.parametrize("victim", ["sfvm", "QEMU"])
def test_a_killed_build_goes_on_at_its_last_checkpoint(project, victim):
    project.kills()
    slow = '<run network="no">echo begun; sleep 600</run>'
    project.write("slow", "busybox", '<run network="no">cat /proc/sys/kernel/random/uuid >/etc/id</run>', slow)
    running = project.start("build", "slow")
    running.until("Output", line="begun")
    os.kill(running.process.pid if victim == "sfvm" else project.emulators()[0], signal.SIGKILL)
    assert running.end().status == (-signal.SIGKILL if victim == "sfvm" else 1)
    project.edit("slow", ("sleep 600", "true"))
    resumed = project.sfvm("build", "slow")
    assert [(event["node"], event["first"]) for event in resumed.all("NodeStarted")] == [("slow", 2)]
    assert len(project.cat("slow", "/etc/id")) == 37
