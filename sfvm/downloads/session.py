"""What the proxy knows of one command: whose build it belongs to, what it may reach, and what it has asked for."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy

FOREVER = re.compile(r"/by-hash/|\.(u?deb|ddeb|rpm|apk|pkg\.tar\.(xz|zst))$")
"""Paths whose content does not change: by-hash of Debian's repositories, and packages, whose names have versions."""


@dataclass
class Session:
    """One command's use of the network. *told* says for its log what it could not have, and why; *unkept* are URLs for
    which the cache had no room."""

    access: Access
    policy: Policy
    token: str = field(default_factory=lambda: secrets.token_hex(16))
    seen: set[str] = field(default_factory=set)
    unkept: set[str] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def doubt(self, output: Iterable[str]) -> None:
        """The command failed, and said *output*: packages that it names may not be what their repository says that they
        are, which it alone can know. The store forgets what their URLs had."""
        said = "\n".join(output)
        for url in self.seen:
            path = urlsplit(url).path
            name = FOREVER.sub("", path.rpartition("/")[2])
            if FOREVER.search(path) and (name in said or unquote(name) in said):
                self.access.store.forget(url)
