"""Work in other threads ends when it is asked to, at once, and only then."""

import subprocess
import threading

import pytest

from sfvm.cancellation import NEVER, Cancellation, Cancelled


def test_what_blocks_is_ended_and_says_so():
    stop, blocked, ended = Cancellation(), threading.Event(), []

    def work():
        released = threading.Event()
        try:
            with stop.killing(released.set):
                blocked.set()
                assert released.wait(20)
                raise RuntimeError("it was killed")
        except Cancelled:
            ended.append("cancelled")

    worker = threading.Thread(target=work)
    worker.start()
    assert blocked.wait(20)
    stop.cancel()
    worker.join(20)
    assert ended == ["cancelled"]


def test_nothing_begins_after_it():
    stop, kills = Cancellation(), []
    stop.cancel()
    stop.cancel()
    with pytest.raises(Cancelled), stop.killing(lambda: kills.append(1)):
        pytest.fail("it began")
    with pytest.raises(Cancelled):
        stop.check()
    assert stop.asked()
    assert kills == []


def test_what_is_over_is_not_killed():
    stop, kills = Cancellation(), []
    with stop.killing(lambda: kills.append(1)):
        pass
    with pytest.raises(ValueError, match="of its own"), stop.killing(lambda: kills.append(2)):
        raise ValueError("of its own")
    stop.cancel()
    assert kills == []
    assert not NEVER.asked()


@pytest.mark.parametrize("early", [True, False], ids=["asked before it began", "asked meanwhile"])
def test_a_program_is_killed_whenever_it_is_asked(early):
    stop = Cancellation()
    process = subprocess.Popen(["sleep", "1000"])
    with process:  # whatever comes of it
        try:
            if early:
                stop.cancel()
            with pytest.raises(Cancelled), stop.running(process):
                assert not early
                stop.cancel()
                process.wait(60)
                raise RuntimeError("it was killed")
            assert process.returncode == -9
        finally:
            process.kill()


def test_a_program_ends_with_what_wants_it():
    process = subprocess.Popen(["sleep", "1000"])
    with pytest.raises(ValueError, match="of its own"), Cancellation().running(process):
        raise ValueError("of its own")
    assert process.returncode == -9
