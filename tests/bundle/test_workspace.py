"""Where bundles are made: private while in use, swept after a crash, replaced whole."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sfvm.bundle.workspace import PREFIX, put, workspace


def test_it_is_gone_at_the_end(tmp_path):
    with workspace(tmp_path) as work:
        (work / "file").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next(tmp_path):
    script = (
        "import sys, time, pathlib\nfrom sfvm.bundle.workspace import workspace\n"
        "with workspace(pathlib.Path(sys.argv[1])):\n    print('ready', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        left = list(tmp_path.glob(f"{PREFIX}*"))
        with workspace(tmp_path):
            assert left[0].exists(), "it is in use"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert left[0].exists()
    with workspace(tmp_path):
        assert not left[0].exists()


def test_what_goes_just_as_it_is_looked_at(tmp_path, monkeypatch):
    """Bundles side by side sweep one directory, and the others remove what is theirs meanwhile."""
    left, real = tmp_path / f"{PREFIX}left", os.open
    left.mkdir()

    def late(path, *more):
        if path == left:
            left.rmdir()
        return real(path, *more)

    monkeypatch.setattr(os, "open", late)
    with workspace(tmp_path) as work:
        assert list(tmp_path.iterdir()) == [work]


@pytest.mark.parametrize("name", [".sfvm-repo", f"{PREFIX}registry", ".sfvm-bundle-mine"])
def test_what_is_the_users_stays(tmp_path, name):
    """A repository, for example: nobody holds a lock on that directory."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "file").write_text("x")
    (tmp_path / f"{PREFIX}a_file").write_text("x")
    with workspace(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, f"{PREFIX}a_file"])
    assert (tmp_path / name / "file").read_text() == "x"


def test_what_others_left_is_theirs(tmp_path, monkeypatch):
    real = os.open

    def refused(path, *more):
        if str(path).endswith("theirs"):
            raise PermissionError(13, "not yours")
        return real(path, *more)

    (tmp_path / f"{PREFIX}theirs").mkdir(mode=0)
    monkeypatch.setattr(os, "open", refused)
    with workspace(tmp_path) as work:
        assert work.is_dir()


def test_a_relative_place_is_no_url_for_qemu(tmp_path, monkeypatch):
    """Python 3.11's mkdtemp returns what it was given, and "build-10:42/disk" is a protocol and a name to qemu-img."""
    monkeypatch.chdir(tmp_path)
    Path("build-10:42").mkdir()
    with workspace(Path("build-10:42")) as work:
        assert work.is_absolute()


def test_a_bundle_replaces_an_older_one_whole(tmp_path):
    for text in ("old", "new"):
        with workspace(tmp_path) as work:
            (work / "made").mkdir()
            (work / "made" / text).write_text(text)
            put(work / "made", tmp_path / "bundle", work)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
