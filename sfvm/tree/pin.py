"""What ties a node to a moment, besides its spec: a refresh on purpose, or a lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Pin:
    """*refreshed* is the stamp of the node's last refresh, *lock* the digest of what its lock names (each empty:
    there is none). *contents* is what a build may fetch: the SHA-256 of each URL (None: whatever the mirrors have). A
    *trial* is built without its name standing for it."""

    refreshed: str = ""
    lock: str = ""
    contents: Mapping[str, str] | None = None
    trial: bool = False

    def inputs(self) -> Mapping[str, str]:
        """Its part of the node's inputs, and so of its key."""
        values = {"refreshed": self.refreshed, "lock": self.lock}
        return {name: value for name, value in values.items() if value}


UNPINNED = Pin()
