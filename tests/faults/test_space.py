"""A full host disk before and during a build: a clean error, nothing lost, and the build resumes when there is room."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system"),
]


@pytest.fixture
def small(project, tmp_path):
    """A function that gives the project's repository a file system of so many MiB."""
    mounted = []

    def mount(mebibytes: int) -> Path:
        place = project.home / "repository"
        aside = tmp_path / "aside"
        place.rename(aside)
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "none", str(place)]
        if subprocess.run(command, check=False).returncode:
            pytest.skip("this machine lets nobody mount a tmpfs")
        mounted.append(place)
        shutil.copytree(aside, place, dirs_exist_ok=True)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def test_too_little_room_is_told_before_anything_starts(project, small):
    small(100)
    done = project.sfvm("build", "trunk", status=1)
    assert "not enough room for the build" in done.stderr
    assert "sfvm gc" in done.stderr
    assert done.all("ApplianceStarted") == []
    project.sound()


def test_the_disk_fills_up_during_a_build(project, small):
    place = small(400)
    project.write(
        "faulty",
        "busybox",
        '<run network="no">cat /proc/sys/kernel/random/uuid >/etc/id</run>',
        '<run network="no">sleep 3; dd if=/dev/zero of=/big bs=1M count=64 conv=fsync</run>',
    )
    running = project.start("build", "faulty")
    running.until("StepStarted", index=2)
    with (place / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, shutil.disk_usage(place).free - (8 << 20))
    done = running.end()
    project.check(done)
    assert done.status == 1
    assert "is full" in done.stderr, done.stderr
    assert "resumes" in done.stderr
    assert "faulty" in done.stderr
    project.sound()

    (place / "filler").unlink()
    resumed = project.sfvm("build", "faulty")
    assert [event["first"] for event in resumed.all("NodeStarted")] == [2]
    assert len(project.cat("faulty", "/etc/id")) == 37
    project.sound()
