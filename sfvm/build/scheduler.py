"""Runs chains of nodes in the order their parents allow, as many at once as the machine has room for.

Pure scheduling: what a chain does is the caller's function. A chain may start as soon as its first node's parent is
sealed, even while the chain that sealed it goes on.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfvm.config import Settings
from sfvm.tree import Node

Chain = tuple[Node, ...]


@dataclass(frozen=True)
class _Sealed:
    key: str


@dataclass(frozen=True)
class _Ended:
    chain: Chain
    error: BaseException | None


class Cancelled(Exception):
    """A chain stopped because the build as a whole stops."""


class Schedule:
    """One run over *chains*. The worker function gets a chain and calls :meth:`sealed` after each of its nodes; it
    looks at :attr:`cancelled` between steps and gives up with :class:`Cancelled` when it is set."""

    def __init__(self, chains: Sequence[Chain], jobs: int, *, keep_going: bool = False) -> None:
        self.waiting = list(chains)
        self.jobs = jobs
        self.keep_going = keep_going
        self.cancelled = threading.Event()
        self._messages: queue.SimpleQueue[_Sealed | _Ended] = queue.SimpleQueue()
        self._missing = {node.key for chain in chains for node in chain}

    def sealed(self, key: str) -> None:
        """Tell that the node with *key* is in the repository."""
        self._messages.put(_Sealed(key))

    def run(self, work: Callable[[Chain], None], on_cancel: Callable[[], None]) -> list[BaseException]:
        """Do everything; return the errors in the order they happened (chains that depend on a failed node are left
        out). When the main thread is interrupted, or a chain fails and *keep_going* is not set, :attr:`cancelled` is
        set, *on_cancel* is called once (it makes blocking calls in the workers return), and all workers are joined
        before the exception goes on."""
        threads: dict[Chain, threading.Thread] = {}
        errors: list[BaseException] = []

        def worker(chain: Chain) -> None:
            error: BaseException | None = None
            try:
                work(chain)
            except BaseException as caught:  # handed to the main thread, which decides
                error = caught
            self._messages.put(_Ended(chain, error))

        def cancel() -> None:
            if not self.cancelled.is_set():
                self.cancelled.set()
                on_cancel()

        try:
            while True:
                for chain in self._ready(self.jobs - len(threads)):
                    self.waiting.remove(chain)
                    threads[chain] = threading.Thread(target=worker, args=(chain,), name=f"build {chain[0].name}")
                    threads[chain].start()
                if not threads:
                    return errors
                match self._messages.get():
                    case _Sealed(key):
                        self._missing.discard(key)
                    case _Ended(chain, error):
                        threads.pop(chain).join()
                        if error is not None and not isinstance(error, Cancelled):
                            errors.append(error)
                            if not self.keep_going:
                                cancel()
        finally:
            if threads:
                cancel()
                for thread in threads.values():
                    thread.join()

    def _ready(self, room: int) -> Iterable[Chain]:
        if self.cancelled.is_set():
            return []
        ready = [c for c in self.waiting if c[0].parent is None or c[0].parent.key not in self._missing]
        return ready[: max(room, 0)]


def jobs(settings: Settings) -> int:
    """How many appliances may run at once: as the user says, else one per CPU while memory lasts (an appliance may use
    its memory and a quarter more for QEMU itself; half of what is available stays with the machine)."""
    if settings.jobs is not None:
        return settings.jobs
    by_memory = available_memory() // 2 // (settings.memory * 5 // 4)
    return max(1, min(os.cpu_count() or 1, by_memory))


def available_memory() -> int:
    """MiB of memory that may be used without swapping (``MemAvailable`` of proc(5))."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 2048
