"""Signals that ask us to end become an exception in the main thread, whatever it waits for."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sfvm.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NUDGE = signal.SIGURG
"""Ignored unless somebody asks for it (signal(7)), and nobody here does."""
PAUSE = 0.05
"""Seconds between two nudges: the first may come just before the main thread begins to wait."""


@contextmanager
def interruptible() -> Iterator[None]:
    """A context in which the first of :data:`SIGNALS` raises :class:`Interrupted` in the main thread, once: cleaning up
    is not disturbed. One that the parent process has told us to ignore (nohup) stays ignored."""
    ended = threading.Event()

    def end(number: int, _frame: FrameType | None) -> None:
        if ended.is_set():
            os.write(2, b"sfvm: cleaning up, a moment\n")
            return
        ended.set()
        raise Interrupted(number)

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {**dict.fromkeys(heard, end), NUDGE: lambda number, frame: None}
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    with _nudging(ended):
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def _nudging(ended: threading.Event) -> Iterator[None]:
    """Make the main thread notice a signal that the kernel gave to another one (a thread that forks meanwhile takes it,
    for example). Python runs handlers in the main thread only, and does not wake it for that; a signal of its own does
    (signal.set_wakeup_fd, "Signals and threads")."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writer, False)
    over = threading.Event()

    def watch() -> None:
        while heard := os.read(reader, 1):
            while heard[0] in SIGNALS and not (ended.is_set() or over.wait(PAUSE)):
                signal.pthread_kill(main, NUDGE)

    main = threading.get_ident()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        over.set()
        os.close(writer)
        watcher.join()
        os.close(reader)
