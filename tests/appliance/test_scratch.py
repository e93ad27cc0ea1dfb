"""Directories of appliances whose process was killed."""

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.appliance.scratch import PREFIX, YOUNG, Scratch, dead_sockets


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Short enough to be the one for temporary files, and nobody else's."""
    with tempfile.TemporaryDirectory(prefix="sfvm-t-", dir="/tmp") as made:
        monkeypatch.setattr(tempfile, "tempdir", made)
        yield Path(made)


def killed(sockets: Path) -> Path:
    """What a process leaves that made a directory and was then killed."""
    program = (
        "import os, sys, tempfile; from sfvm.appliance.scratch import Scratch; tempfile.tempdir = sys.argv[1]\n"
        "s = Scratch(); s.note(f'path={sys.argv[2]}/guestfsd.sock,id=x')\n"
        "print(s.path, flush=True); os.kill(os.getpid(), 9)"
    )
    arguments = [sys.executable, "-c", program, tempfile.gettempdir(), str(sockets)]
    return Path(subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=False).stdout.strip())


def test_a_killed_process_leaves_nothing_for_long(tmp_path: Path) -> None:
    sockets = tmp_path / "libguestfsAbc123"
    sockets.mkdir()
    left = killed(sockets)
    assert left.is_dir()
    scratch = Scratch()
    assert not left.exists()
    assert not sockets.exists()
    scratch.close()
    assert not scratch.path.exists()


def test_those_in_use_stay() -> None:
    first, second = Scratch(), Scratch()
    assert first.path.is_dir()
    first.close()
    assert second.path.is_dir()
    second.close()


def test_two_that_begin_at_once_leave_each_other_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second looks when the first has made its lock, and does not hold it yet."""
    real, others = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        others.append(Scratch())
        real(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    first = Scratch()
    assert first.path.is_dir()
    first.close()
    others[0].close()


def test_only_an_old_directory_without_a_lock_goes(home: Path) -> None:
    young, old = (Path(tempfile.mkdtemp(prefix=PREFIX, dir=home)) for _ in range(2))
    past = time.time() - 2 * YOUNG
    os.utime(old, (past, past))
    Scratch().close()
    assert young.exists()
    assert not old.exists()
    young.rmdir()


def test_only_sockets_that_nobody_has_open_are_dead(tmp_path: Path) -> None:
    """libguestfs's directories of a launch that was killed; its others, and those in use, are not ours to touch."""
    past = time.time() - 2 * YOUNG
    with socket.socket(socket.AF_UNIX) as used:
        for name in ("libguestfsDead12", "libguestfsUsed12", "libguestfsYoung1", "libguestfsOther1"):
            directory = tmp_path / name
            directory.mkdir()
            if name == "libguestfsUsed12":
                used.bind(str(directory / "guestfsd.sock"))
            else:
                (directory / "guestfsd.sock").touch()
            if name == "libguestfsOther1":
                (directory / "overlay1.qcow2").touch()
            if name != "libguestfsYoung1":
                os.utime(directory, (past, past))
        assert list(dead_sockets(tmp_path)) == [tmp_path / "libguestfsDead12"]


def test_long_temporary_directories_leave_room_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 80)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    scratch = Scratch()
    assert len(str(scratch.path / "terminal")) < 100
    scratch.close()
