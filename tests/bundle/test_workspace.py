"""Where bundles are made: private while in use, swept after a crash, replaced whole."""

import os
import signal
import subprocess
import sys

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


def test_a_bundle_replaces_an_older_one_whole(tmp_path):
    for text in ("old", "new"):
        with workspace(tmp_path) as work:
            (work / "made").mkdir()
            (work / "made" / text).write_text(text)
            put(work / "made", tmp_path / "bundle", work)
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
