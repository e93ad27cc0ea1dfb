"""Calls that signals can end."""

import os
import signal
import threading
import time

import pytest

from sfvm.appliance.waiting import interruptible


def test_results_and_errors_come_through() -> None:
    assert interruptible(lambda: 42, lambda: None) == 42
    with pytest.raises(ZeroDivisionError):
        interruptible(lambda: 1 // 0, lambda: None)


def test_a_signal_stops_the_call() -> None:
    """And what closes its handle then comes after its end."""
    stopped = threading.Event()
    told: list[str] = []

    def call() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.wait(60)
        time.sleep(0.1)  # whoever does not wait for us is here now
        told.append("ended")

    with pytest.raises(KeyboardInterrupt):
        interruptible(call, stopped.set)
    told.append("came through")
    assert told == ["ended", "came through"]


def test_a_signal_before_the_call_leaves_it_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Early(threading.Event):
        def set(self) -> None:
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(threading, "Event", Early)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: None)
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interruptible(lambda: told.append("called"), lambda: told.append("stopped"))
    assert told == []


def test_other_threads_call_directly() -> None:
    names: list[str] = []

    def work() -> None:
        interruptible(lambda: names.append(threading.current_thread().name), lambda: None)

    thread = threading.Thread(target=work, name="ours")
    thread.start()
    thread.join()
    assert names == ["ours"]
