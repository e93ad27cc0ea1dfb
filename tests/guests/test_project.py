"""What a project under test may find in /tmp when tests beside it kill."""

import os
import time
from pathlib import Path

from tests.guests.project import Project, shared, unused


def project(run: Path, worker: str) -> Project:
    home = run / worker / "test_0" / "home"
    home.mkdir(parents=True)
    return Project(home, run)


def directory(tmp_path: Path, age: float) -> Path:
    made = tmp_path / f"libguestfs{age:06.0f}"
    made.mkdir()
    os.utime(made, (time.time() - age, time.time() - age))
    return made


def test_workers_share_the_directory_of_their_run() -> None:
    assert shared(Path("/tmp/pytest-7/popen-gw0/test_0/home")) == Path("/tmp/pytest-7")
    assert shared(Path("/tmp/pytest-7/home")) == Path("/tmp/pytest-7")


def test_what_stays_is_told_unless_somebody_kills(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tests.guests.project.eventually", lambda look: look())
    left = directory(tmp_path, 5)
    here, beside = project(tmp_path, "popen-gw0"), project(tmp_path, "popen-gw1")
    assert unused({left, tmp_path / "gone"}, shared(here.home)) == [str(left)]
    beside.kills()
    assert beside.killed
    assert unused({left}, shared(here.home)) == []
    (marker,) = tmp_path.glob("kills-*")
    os.utime(marker, (time.time() - 60, time.time() - 60))  # it ended before
    assert unused({left}, shared(here.home)) == [str(left)]
