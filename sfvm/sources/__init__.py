"""Where the content of a base comes from: a file next to the spec, or a URL; always known by its SHA-256.

What a URL has is fetched once, while the base prepares, and kept in the repository's ``downloads/sha256/``: a second
build finds it there, whatever the URL has meanwhile, and needs no network. Plans, and keys of nodes, know the digest
alone. ``file:///…`` may lie anywhere: whoever names the digest of a file knows it already.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

from sfvm.digest import file_digest
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.verbs import JSON, Host

SCHEMA = """
      <choice>
        <attribute name="from"><ref name="string"/></attribute>
        <attribute name="src"><ref name="string"/></attribute>
      </choice>
      <attribute name="sha256"><ref name="sha256"/></attribute>"""
SCHEMES = ("file", "http", "https", "sftp")
WEB = ("http", "https")


@dataclass(frozen=True)
class Source:
    """The content with the digest *sha256*: in the file *path*, or at *url*."""

    path: Path | None
    url: str
    sha256: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        """The attributes ``from`` (a path), ``src`` (a path or a URL) and ``sha256``.

        :raises SpecError: a file outside the spec's directory or missing, or a URL that cannot be one
        """
        sha256 = element.attributes["sha256"].lower()
        name = "from" if "from" in element.attributes else "src"
        if name == "from" or "://" not in element.attributes[name]:
            return cls(element.file(name), "", sha256, element.place)
        url = element.attributes[name]
        require_url(url, element.place_of(name))
        return cls(None, url, sha256, element.place)

    @property
    def name(self) -> str:
        """What messages and titles call it."""
        return self.path.name if self.path is not None else name_of(self.url)

    def inputs(self) -> Mapping[str, JSON]:
        """Its digest; a file next to the spec must have it.

        :raises SpecError: it has another
        """
        if self.path is not None:
            found = file_digest(self.path, self.place)
            if found != self.sha256:
                raise SpecError(
                    f"{self.name} is not what the spec expects",
                    place=self.place,
                    why=f"its sha256 is {found}",
                    hint="correct the file, or the sha256 if the new content is right",
                )
        return {"sha256": self.sha256}

    def fetch(self, host: Host) -> Path:
        """The file that has it, fetched unless it is there.

        :raises SpecError: it cannot be had, or has another digest
        :raises Cancelled: *host* stops
        """
        if self.path is not None:
            self.inputs()
            return self.path
        from sfvm.sources.fetch import fetch  # few builds fetch

        return fetch(self.url, self.sha256, host.access, self.place)


def name_of(url: str) -> str:
    """The last part of *url*'s path, for people."""
    parts = urlsplit(url)
    return unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc


def require_url(url: str, place: Place, name: str = "src", schemes: tuple[str, ...] = SCHEMES) -> None:
    """:raises SpecError: *url*, of the attribute *name*, is none that can be fetched, or has a password in it"""
    told = f"{name} {re.sub('//[^/]*@', '//', url)!r}"
    try:
        parts = urlsplit(url)
        port = parts.port
        if not re.fullmatch(r"[!-~]+", url):
            raise ValueError("it has a blank, or more than ASCII: write %20 and the like")
        if "%00" in url:
            raise ValueError("no file's name has a NUL")
    except ValueError as error:
        raise SpecError(f"{told} is no URL", place=place, why=str(error), hint="https://HOST/PATH") from None
    if parts.scheme not in schemes:
        hint = f"one of {', '.join(schemes)}{', or a path' if name == 'src' else ''}"
        raise SpecError(f"{told} cannot be fetched", place=place, hint=hint)
    if parts.password is not None or (parts.username is not None and parts.scheme != "sftp"):
        hint = "keys of sftp come from ssh-agent or ~/.ssh; take the user and password out of the URL"
        raise SpecError(
            f"{name} has a user or a password in it", place=place, why="specs are kept and shown", hint=hint
        )
    local = parts.scheme == "file"
    if (
        port == 0
        or not parts.path
        or (local and parts.netloc not in ("", "localhost"))
        or not (local or parts.hostname)
    ):
        example = "file:///srv/images/x.qcow2" if local else f"{parts.scheme}://HOST/PATH"
        raise SpecError(f"{told} is no URL of a file", place=place, hint=f"for example {example}")
