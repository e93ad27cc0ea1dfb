"""Ending work that runs in other threads: asked once, from any thread, and it ends at once."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Cancelled(Exception):
    """The work was given up because it was asked to end."""


class Cancellation:
    """What workers share with whoever may stop them. They look at it between two things, and say what ends a call that
    blocks (a process, a VM)."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._asked = threading.Event()
        self._kills: list[Callable[[], None]] = []

    def asked(self) -> bool:
        """Whether the work is to end."""
        return self._asked.is_set()

    def check(self) -> None:
        """Between two things to do.

        :raises Cancelled: the work is to end
        """
        if self._asked.is_set():
            raise Cancelled

    def cancel(self) -> None:
        """End everything; asking again changes nothing."""
        with self._guard:
            self._asked.set()
            for kill in self._kills:
                kill()
            self._kills.clear()

    @contextmanager
    def killing(self, kill: Callable[[], None]) -> Iterator[None]:
        """A context that *kill*, called from another thread, makes end with an error. It is never called after.

        :raises Cancelled: instead of any error, once the work is to end
        """
        with self._guard:
            self.check()
            self._kills.append(kill)
        try:
            yield
        except Exception:
            self.check()
            raise
        finally:
            with self._guard:
                if kill in self._kills:
                    self._kills.remove(kill)

    @contextmanager
    def running(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """A context at whose end *process* has ended: by itself, or killed when the context is left with an error or
        the work is to end.

        :raises Cancelled: instead of any error, once the work is to end
        """
        with process:
            try:
                with self.killing(process.kill):
                    yield
            except BaseException:
                process.kill()
                raise


NEVER = Cancellation()
"""For work that nobody stops."""
