"""Work in other threads ends when it is asked to, at once, and only then."""

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
