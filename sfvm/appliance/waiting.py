"""Python runs signal handlers only between calls of the main thread, and a call of libguestfs may last for hours."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def interruptible(call: Callable[[], Result], stop: Callable[[], None]) -> Result:
    """What *call* returns or raises. In the main thread it runs in a thread of its own, so that a signal handler's
    exception comes through at once; *stop* must then make *call* return."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[Result] = []
    errors: list[BaseException] = []

    # No signal may come between the start of the thread and our waiting for it. QEMU inherits the thread's mask.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            results.append(call())
        except BaseException as error:  # raised again where the call was made
            errors.append(error)

    worker = threading.Thread(target=work, name="libguestfs call")
    worker.start()
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        worker.join()
    except BaseException:
        stop()
        worker.join()
        raise
    if errors:
        raise errors[0]
    return results[0]
