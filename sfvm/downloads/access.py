"""What one node's build has of the network: a policy, the download cache, and the record of what it fetched."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from typing import BinaryIO

from sfvm.cancellation import NEVER, Cancellation
from sfvm.downloads.fetched import Fetched, Ledger
from sfvm.downloads.policy import NotLocked, Policy
from sfvm.downloads.store import Entry, Store
from sfvm.downloads.transfer import Transfers
from sfvm.downloads.upstream import Target
from sfvm.events import Listener, ignore

BY_HASH = re.compile(r"/by-hash/SHA256/([0-9a-f]{64})$")
"""Of Debian's repositories: the URL itself says which content is right."""


class Access:
    """See the module. *transfers* are shared by all builds of this process; *stop* ends what waits for the network, and
    *listener* is told of what takes long."""

    def __init__(
        self, transfers: Transfers, policy: Policy, stop: Cancellation = NEVER, listener: Listener = ignore
    ) -> None:
        self.transfers = transfers
        self.policy = policy
        self.stop = stop
        self.listener = listener
        self.ledger = Ledger()

    @property
    def store(self) -> Store:
        return self.transfers.store

    def expected(self, target: Target) -> str:
        """The SHA-256 of the only content that is right for *target*, or empty.

        :raises NotLocked: the lock does not have it
        """
        by_hash = BY_HASH.search(target.path)
        known = by_hash[1] if by_hash else ""
        locked = self.policy.locked
        if locked is None:
            return known
        if not locked.get(target.url):
            raise NotLocked("the lock does not have it: make a new one (sfvm lock)")
        return locked[target.url]

    @contextlib.contextmanager
    def stored(self, target: Target, expected: str) -> Iterator[tuple[Entry, BinaryIO] | None]:
        """What the store has for *target*: the content that is *expected*, or else what it had the last time."""
        if not expected:
            with self.store.open(target.url) as known:
                yield known
            return
        with self.store.find(expected) as file:
            if file is None:
                yield None
            else:
                yield Entry(expected, os.fstat(file.fileno()).st_size, "", f'"{expected}"', ""), file

    def record(self, target: Target, entry: Entry, begun: float, *, cached: bool) -> None:
        """*target* was found to have *entry*; it took from *begun* (:func:`time.monotonic`) until now."""
        seconds = round(time.monotonic() - begun, 3)
        self.ledger.add(Fetched(target.url, entry.sha256, entry.size, seconds, cached))
