"""The host's side of the appliance's ``init``, which says that it is ready, waits, and goes on when it is told to.

At that moment the VM can be saved, and from that moment a saved one goes on. The word to go on carries the time and
fresh random bytes: a restored VM has the clock and the random pool of the moment it was saved.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sfvm.appliance.warm import State

Send = Callable[[bytes], None]
ENTROPY = 32
"""Bytes for the random pool: as many as its seed has (random(4))."""


def go(how: str) -> bytes:
    """The line that ``appliance/init`` waits for: seconds since the epoch, random bytes, *how* it came to wait."""
    return f"{time.time():.3f} {os.urandom(ENTROPY).hex()} {how}\n".encode()


class Handshake(Protocol):
    """Called in the thread that reads the appliance's log channel."""

    def opened(self, send: Send) -> None:
        """The VM has been started."""

    def ready(self, send: Send) -> None:
        """``init`` says that it waits."""


@dataclass(frozen=True)
class Booted:
    """An appliance that boots; *save* is called while it waits."""

    save: Callable[[], None] | None = None

    def opened(self, send: Send) -> None:
        pass

    def ready(self, send: Send) -> None:
        try:
            if self.save is not None:
                self.save()
        finally:
            send(go("booted"))


@dataclass(frozen=True)
class Restored:
    """A saved appliance, which waits from the beginning. It is told to go on only when its *state* is what was saved;
    *refuse* ends it otherwise."""

    state: State
    refuse: Callable[[str], None]

    def opened(self, send: Send) -> None:
        try:
            intact = self.state.intact()
        except OSError as error:  # gc of another process has taken it
            self.refuse(f"its state cannot be read: {error.strerror}")
            return
        if intact:
            send(go("restored"))
        else:
            self.refuse("its bytes are not those that were saved")

    def ready(self, send: Send) -> None:
        """QEMU did not get the state, and the appliance boots: it has its word already."""
