"""What one node's build has of the network: a policy, the download cache, and the record of what it fetched."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sfvm.cancellation import NEVER, Cancellation
from sfvm.downloads.fetched import Fetched, Ledger
from sfvm.downloads.policy import NotLocked, Policy, Refused
from sfvm.downloads.store import Entry, Store
from sfvm.downloads.transfer import FAILURES, Transfers, Unkept, WrongDigest
from sfvm.downloads.upstream import Target
from sfvm.errors import StepError

BY_HASH = re.compile(r"/by-hash/SHA256/([0-9a-f]{64})$")
"""Of Debian's repositories: the URL itself says which content is right."""


class Access:
    """See the module. *transfers* are shared by all builds of this process; *stop* ends what waits for the network."""

    def __init__(self, transfers: Transfers, policy: Policy, stop: Cancellation = NEVER) -> None:
        self.transfers = transfers
        self.policy = policy
        self.stop = stop
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

    def fetch(self, url: str, sha256: str) -> Path:
        """A file with the content that has this SHA-256: from the store, else from *url*. Read it only. A lock is not
        asked: who names a digest has locked it.

        :raises StepError: it cannot be had, or is another content
        :raises Cancelled: the build stops
        """
        begun = time.monotonic()
        try:
            target = Target.parse(url, self.policy)
            with self.stored(target, sha256) as known:
                if known is not None:
                    self.record(target, known[0], begun, cached=True)
                    return self.store.content(sha256)
            entry = self._transfer(target, sha256)
        except WrongDigest as error:
            raise StepError(
                f"{url} is not what the spec expects",
                why=f"its sha256 is {error.found}",
                hint="correct the url, or the sha256 if the new content is right",
            ) from error
        except Refused as error:
            raise StepError(f"{url} may not be downloaded", why=str(error), hint="see docs/network.md") from error
        except (*FAILURES, ValueError) as error:
            why = str(error) or type(error).__name__
            raise StepError(f"{url} cannot be downloaded", why=why, hint="try again later") from error
        except Unkept:
            entry = None
        if entry is None:
            raise StepError(f"{url} cannot be kept", why="there is no room for it", hint="sfvm gc, or another disk")
        self.record(target, entry, begun, cached=False)
        return self.store.content(sha256)

    def _transfer(self, target: Target, sha256: str) -> Entry | None:
        with self.transfers.follow(target, self.policy, {}, sha256) as reader, self.stop.killing(reader.cancel):
            head = reader.head()
            if head.status != 200:
                raise OSError(f"the server says {head.status} {head.reason}")
            entry = reader.finish()
            return entry if reader.transfer.kept else None
