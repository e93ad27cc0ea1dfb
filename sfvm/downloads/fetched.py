"""What was downloaded, as manifests record it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Fetched:
    """The content with this *sha256* and *size* in bytes was had under *url* in *seconds*; *cached* tells that none of
    its bytes came over the network. A tunnel (``CONNECT``) is ``https://HOST:PORT``, with the bytes that came through
    it and no digest: nobody but its ends knows what that was."""

    url: str
    sha256: str
    size: int
    seconds: float
    cached: bool

    @property
    def tunnel(self) -> bool:
        return not self.sha256

    def to_json(self) -> dict[str, Any]:
        """It as one JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """:raises ValueError: *value* is no such object"""
        try:
            found = cls(
                str(value["url"]), str(value["sha256"]), int(value["size"]), float(value["seconds"]),
                bool(value["cached"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"malformed download ({error!r})") from None
        if found.size < 0 or not (found.tunnel or SHA256.fullmatch(found.sha256)):
            raise ValueError("malformed download")
        return found


class Ledger:
    """Collects what is downloaded, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[Fetched] = []

    def add(self, fetched: Fetched) -> None:
        with self._lock:
            self._found.append(fetched)

    def take(self) -> tuple[Fetched, ...]:
        """What has come since the last time, as :func:`distinct`."""
        with self._lock:
            found, self._found = self._found, []
        return distinct(found)


def distinct(found: Iterable[Fetched]) -> tuple[Fetched, ...]:
    """*found* without those that say again that a URL had a content, in their order. What came over the network stays,
    rather than what was cached then. Tunnels to one place are one, with the bytes and seconds of all."""
    first: dict[tuple[str, str], Fetched] = {}
    for fetched in found:
        known = first.get((fetched.url, fetched.sha256))
        if known is not None and fetched.tunnel:
            seconds = round(known.seconds + fetched.seconds, 3)
            first[fetched.url, ""] = replace(known, size=known.size + fetched.size, seconds=seconds)
        elif known is None or (known.cached and not fetched.cached):
            first[fetched.url, fetched.sha256] = fetched
    return tuple(first.values())
