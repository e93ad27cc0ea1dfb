"""Runs jobs in the order that sealed nodes allow, as many at once as the machine has room for.

Pure scheduling: what a job does is the caller's function. It may begin as soon as the node it waits for is sealed, even
while the chain that sealed it goes on.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfvm.cancellation import Cancellation, Cancelled
from sfvm.config import Settings
from sfvm.events import Listener, Notice


@dataclass(frozen=True, eq=False)
class Job:
    """Something that takes an appliance: *run* is called in a thread of its own, once the node with the key *after* is
    in the repository (None: it is there already). It is given what may ask it to give up, with :class:`Cancelled`, and
    how many jobs run at that time, itself included. *name* is the node that it is about."""

    name: str
    after: str | None
    run: Callable[[Cancellation, int], None]


@dataclass(frozen=True)
class _Sealed:
    key: str


@dataclass(frozen=True)
class _Ended:
    job: Job
    error: BaseException | None


class Schedule:
    """One run over *jobs*, at most *limit* at once; of those that may begin, the first. *missing* are the keys of the
    nodes that the jobs will seal; whoever does calls :meth:`sealed`."""

    def __init__(self, jobs: Sequence[Job], limit: int, missing: Iterable[str] = (), *, keep_going: bool = False):
        self.waiting = list(jobs)
        self.limit = limit
        self.keep_going = keep_going
        self.stop = Cancellation()
        self._messages: queue.SimpleQueue[_Sealed | _Ended] = queue.SimpleQueue()
        self._missing = set(missing)

    def sealed(self, key: str) -> None:
        """Tell that the node with *key* is in the repository."""
        self._messages.put(_Sealed(key))

    def run(self) -> list[BaseException]:
        """Do everything; return the errors in the order they happened (jobs that wait for a node that failed are left
        out). When the main thread is interrupted, or a job fails and *keep_going* is not set, all others are cancelled
        and joined before the exception goes on."""
        threads: dict[Job, threading.Thread] = {}
        errors: list[BaseException] = []

        def worker(job: Job, at_once: int) -> None:
            error: BaseException | None = None
            try:
                job.run(self.stop, at_once)
            except BaseException as caught:  # handed to the main thread, which decides
                error = caught
            self._messages.put(_Ended(job, error))

        try:
            while True:
                ready = self._ready(self.limit - len(threads))
                at_once = len(threads) + len(ready)
                for job in ready:
                    self.waiting.remove(job)
                    threads[job] = threading.Thread(target=worker, args=(job, at_once), name=f"job {job.name}")
                    threads[job].start()
                if not threads:
                    return errors
                match self._messages.get():
                    case _Sealed(key):
                        self._missing.discard(key)
                    case _Ended(job, error):
                        threads.pop(job).join()
                        if error is not None and not isinstance(error, Cancelled):
                            errors.append(error)
                            if not self.keep_going:
                                self.stop.cancel()
        finally:
            if threads:
                self.stop.cancel()
                for thread in threads.values():
                    if thread.ident is not None:  # interrupted before it began
                        thread.join()

    def _ready(self, room: int) -> list[Job]:
        if self.stop.asked():
            return []
        return [job for job in self.waiting if job.after not in self._missing][: max(room, 0)]


def raise_first(errors: Sequence[BaseException], listener: Listener) -> None:
    """Raise the first of what :meth:`Schedule.run` has returned, if any; the others are told as notices."""
    for error in errors[1:]:
        listener(Notice(str(error)))
    if errors:
        raise errors[0]


def limit(settings: Settings) -> int:
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
