"""One content on its way from a server into the store, followed by all who want it meanwhile.

What comes is written to a draft, and readers follow the growing file, each at its own pace. A body that breaks off is
continued where it broke (RFC 9110, Range and If-Range), when the server has given a validator, as often as some more of
it has come each time. The last byte is for readers only when the whole is in the store, and has the digest that was
expected, if any was: nobody gets a wrong content whole.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sfvm.downloads.policy import Policy, Refused
from sfvm.downloads.store import Draft, Entry, Store
from sfvm.downloads.upstream import PERSONAL, Answer, Broken, Line, Pool, Target

MAX_KEPT = 4 << 30
"""A larger content is not kept, in bytes."""
MAX_RESUMES = 20
LAST = 2.0
"""Seconds that a transfer that was given up is waited for at the end."""
FAILURES = (OSError, http.client.HTTPException, Refused)


class Unkept(Exception):
    """The store cannot hold it: it may be passed on without being kept."""

    def __init__(self) -> None:
        super().__init__("the download cache has no room for it")


class Ended(Exception):
    """What it was about to follow may have ended meanwhile."""


@dataclass(frozen=True)
class Head:
    """What comes before the body: HTTP's status, reason and headers, and the body's length (None: unknown)."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    length: int | None


class Transfer:
    """See the module. *headers* go with the request, *expected* is the SHA-256 of the content, or empty. It begins with
    the first reader, in a thread of its own, and is given up when the last one goes; *ended* is called then, too."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        target: Target,
        policy: Policy,
        headers: Mapping[str, str],
        expected: str,
        ended: Callable[[Transfer], None],
    ) -> None:
        self.store = store
        self.pool = pool
        self.target = target
        self.policy = policy
        self.headers = headers
        self.expected = expected
        self.changed = threading.Condition()
        self.head: Head | None = None
        self.size = 0
        self.done = False
        self.error: BaseException | None = None
        self.entry: Entry | None = None
        """What came, when it came with status 200."""
        self.kept = False
        """Whether the store has it now."""
        self.readers = 0
        self.file = -1
        self._ended = ended
        self._line = Line()
        self._given_up = False

    def run(self) -> None:
        """Do it."""
        try:
            self._fetch()
        except (*FAILURES, Unkept, ValueError) as error:  # ValueError: http.client on headers that are none
            self.error = error
        finally:
            self._ended(self)
            with self.changed:
                self.done = True
                self.changed.notify_all()
                self._release()

    def follow(self) -> None:
        """There is one reader more."""
        with self.changed:
            self.readers += 1

    def leave(self) -> bool:
        """There is one less. Whether that was the last one, and it is given up."""
        with self.changed:
            self.readers -= 1
            self._given_up = self.readers == 0 and not self.done
            self._release()
        return self._given_up

    def give_up(self) -> None:
        """Nobody wants it any more."""
        self._line.cut()

    def _ask(self, more: Mapping[str, str]) -> Answer:
        return self.pool.ask("GET", self.target, {**self.headers, **more}, self.policy, self._line)

    def _fetch(self) -> None:
        answer = self._ask({})
        head = Head(answer.status, answer.reason, answer.headers, answer.length)
        if head.status == 304:
            for _ in answer.blocks():
                pass
            self._begin(head)
            return
        length = head.length or 0
        with self.store.draft() as draft:
            if draft is None or length > MAX_KEPT or not draft.reserve(length):
                answer.close()
                raise Unkept
            self.file = os.dup(draft.file.fileno())
            self._body(answer, draft, head)
            if head.status == 200:
                self._check(draft)
                self._keep(draft, head)
            self._begin(head)  # it may have had no body

    def _begin(self, head: Head) -> None:
        with self.changed:
            self.head = head
            self.changed.notify_all()

    def _body(self, answer: Answer, draft: Draft, head: Head) -> None:
        resumed = 0
        while True:
            before = draft.size
            try:
                for block in answer.blocks():
                    if draft.size + len(block) > MAX_KEPT or not draft.write(block):
                        answer.close()
                        raise Unkept
                    with self.changed:
                        self.head, self.size = head, draft.size
                        self.changed.notify_all()
                for whole in (head.length, answer.total):
                    if whole not in (None, draft.size):  # the part was shorter than asked
                        raise Broken(f"it ended after {draft.size} of {whole} bytes")
                return
            except (OSError, http.client.HTTPException) as error:
                answer.close()
                resumed += 1
                if self._given_up or resumed > MAX_RESUMES or draft.size == before:
                    raise
                answer = self._resume(draft.size, head, error)

    def _resume(self, size: int, head: Head, error: Exception) -> Answer:
        """The rest of the body from *size* on.

        :raises Exception: *error*, where that cannot be had
        """
        tag, modified = head.headers.get("ETag", ""), head.headers.get("Last-Modified", "")
        validator = modified if not tag or tag.startswith("W/") else tag
        if head.status != 200 or not validator:
            raise error
        answer = self._ask({"Range": f"bytes={size}-", "If-Range": validator})
        if answer.status != 206 or answer.start != size:
            answer.close()
            raise error
        return answer

    def _check(self, draft: Draft) -> None:
        found = draft.digest.hexdigest()
        if self.expected and found != self.expected:
            raise Broken(f"its sha256 is {found}, not {self.expected}")

    def _keep(self, draft: Draft, head: Head) -> None:
        told = head.headers.get
        sha256, control = draft.digest.hexdigest(), told("Cache-Control", "")
        entry = Entry(sha256, draft.size, told("Last-Modified", ""), told("ETag", ""), told("Content-Type", ""))
        self.entry = entry
        if not self.expected and re.search(r"no-store|private", control):
            return
        with contextlib.suppress(OSError):  # readers have the draft
            draft.keep()
            self.kept = True
            if not any(name in self.headers for name in PERSONAL):  # else by its digest alone
                self.store.remember(self.target.url, entry)

    def _release(self) -> None:
        if self.done and self.readers == 0 and self.file >= 0:
            os.close(self.file)
            self.file = -1


class Reader:
    """One who follows a *transfer*."""

    def __init__(self, transfer: Transfer) -> None:
        self.transfer = transfer
        self._closed = False

    def head(self) -> Head:
        """What came before the body, once some of the body is there, too.

        :raises Unkept, Refused, OSError, http.client.HTTPException: it cannot be had
        """
        transfer = self.transfer
        with transfer.changed:
            transfer.changed.wait_for(lambda: self._closed or transfer.done or transfer.head is not None)
            self._check()
            if transfer.head is None:
                raise transfer.error or Broken("it was given up")
            return transfer.head

    def wait(self, offset: int) -> tuple[int, bool]:
        """So many bytes are there, more than *offset*, and whether that is all. The last byte comes with the end.

        :raises Unkept: the store cannot hold the rest
        :raises OSError, http.client.HTTPException: it broke off
        """
        transfer = self.transfer
        with transfer.changed:
            transfer.changed.wait_for(lambda: self._closed or transfer.done or transfer.size - 1 > offset)
            self._check()
            if transfer.done and transfer.error is not None:
                if isinstance(transfer.error, Unkept):
                    raise transfer.error
                raise Broken(str(transfer.error)) from transfer.error
            return (transfer.size, True) if transfer.done else (transfer.size - 1, False)

    def finish(self) -> Entry | None:
        """What has come, once all of it has; None where that was no answer with status 200.

        :raises Unkept, Refused, OSError, http.client.HTTPException: it cannot be had
        """
        transfer = self.transfer
        with transfer.changed:
            transfer.changed.wait_for(lambda: self._closed or transfer.done)
            self._check()
            if transfer.error is not None:
                raise transfer.error
            return transfer.entry

    def _check(self) -> None:
        if self._closed:
            raise Broken("it was given up")

    def cancel(self) -> None:
        """Make who waits fail; from any thread."""
        with self.transfer.changed:
            self._closed = True
            self.transfer.changed.notify_all()


class Transfers:
    """All transfers of a process into one *store*: who asks for what is on its way follows it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.pool = Pool()
        self.ended = 0
        """How many transfers have ended."""
        self._lock = threading.Lock()
        self._running: dict[tuple[object, ...], Transfer] = {}
        self._threads: set[threading.Thread] = set()

    @contextlib.contextmanager
    def follow(
        self, target: Target, policy: Policy, headers: Mapping[str, str], expected: str, ended: int
    ) -> Iterator[Reader]:
        """A reader of *target*, whose transfer begins now or is on its way. So many had *ended* when it was not in the
        store.

        :raises Ended: none is on its way, and one has ended since
        :raises Refused: the policy is offline
        """
        if policy.offline:
            raise Refused("offline: it is not in the download cache")
        key = (target.url, policy.scope, expected, *map(headers.get, PERSONAL))
        with self._lock:
            transfer = self._running.get(key)
            new = transfer is None
            if transfer is None:
                if self.ended != ended:
                    raise Ended
                transfer = Transfer(
                    self.store, self.pool, target, policy, headers, expected, lambda ended: self._end(key, ended)
                )
                self._running[key] = transfer
            transfer.follow()
            if new:
                thread = threading.Thread(target=transfer.run, name="download", daemon=True)
                self._threads = {other for other in self._threads if other.is_alive()} | {thread}
                thread.start()
        try:
            yield Reader(transfer)
        finally:
            with self._lock:
                last = transfer.leave()
                if last:
                    self._forget(key, transfer)
            if last:
                transfer.give_up()

    def _end(self, key: tuple[object, ...], ended: Transfer) -> None:
        with self._lock:
            self._forget(key, ended)
            self.ended += 1

    def _forget(self, key: tuple[object, ...], transfer: Transfer) -> None:
        if self._running.get(key) is transfer:
            del self._running[key]

    def close(self) -> None:
        """Close what is kept open, and wait for transfers that were given up: they leave no draft behind. One that is
        just looking up a name, or connecting, has none."""
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(LAST)
        self.pool.close()
