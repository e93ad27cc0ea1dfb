"""Keys that sign package repositories: files next to a spec, or a URL whose key has a fingerprint that the spec names.

Whoever takes keys adds :data:`SCHEMA` to its own attributes, reads them with :meth:`Keys.parse`, has
:meth:`Keys.inputs` in its key, and lets :meth:`Keys.write` put them where its package manager finds them.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from sfvm.digest import file_digest
from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place, SpecError, StepError
from sfvm.guest import KEPT, Command, Guest
from sfvm.openpgp import dearmor, fingerprints
from sfvm.verbs import JSON

SCHEMA = """
      <optional><attribute name="keys"><ref name="words"/></attribute></optional>
      <optional><attribute name="key-url"><ref name="string"/></attribute></optional>
      <optional><attribute name="fingerprint"><ref name="string"/></attribute></optional>"""
DIRECTORY = f"{KEPT}/keys"
"""Where they are while a package manager runs, for those of the appliance and of the guest: never part of the guest."""
MAX_SIZE = 512 << 10
"""Of a key file, in bytes."""


@dataclass(frozen=True)
class Keys:
    """The *files* and, where *url* is not empty, the key that it leads to, which has one of the *prints*."""

    files: tuple[Path, ...]
    url: str
    prints: tuple[str, ...]
    place: Place

    def __bool__(self) -> bool:
        return bool(self.files or self.url)

    @classmethod
    def parse(cls, element: Element) -> Self:
        """The attributes ``keys``, ``key-url`` and ``fingerprint``; what is empty counts as absent.

        :raises SpecError: a file that is none of ours or no key, a URL without a fingerprint, no fingerprint
        """
        files, url = element.files("keys"), element.get("key-url") or ""
        text = (element.get("fingerprint") or "").upper()
        prints = tuple(dict.fromkeys(re.sub(r"[\s:]", "", part) for part in re.split(r"[,;]", text) if part.strip()))
        for found in prints:
            if not re.fullmatch(r"[0-9A-F]{40}|[0-9A-F]{64}", found):
                raise SpecError(
                    f"fingerprint {found!r} is none",
                    place=element.place_of("fingerprint"),
                    why="a fingerprint has 40 hexadecimal digits (64 of a key of version 6); a key ID is not enough",
                    hint="gpg --show-keys FILE tells it",
                )
        if not prints:
            url = ""  # a param that was left empty: nothing may be trusted by its address
        if url and not re.match(r"https?://[^\s]+$", url):
            raise SpecError(f"key-url {url!r} is not http or https", place=element.place_of("key-url"))
        keys = cls(files, url, prints, element.place)
        for file in files:
            keys._check(file.name, _read(file, element.place), prints if not url else ())
        return keys

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "files": [file_digest(file, self.place) for file in self.files],
            "fingerprints": list(self.prints),
        }

    def write(self, guest: Guest) -> tuple[str, ...]:
        """Put the keys, ASCII-armoured, into files below :data:`DIRECTORY`; return their paths, for commands with
        ``packages=True``.

        :raises StepError: the key at the URL cannot be had or is another
        """
        contents = [_read(file, self.place) for file in self.files]
        if self.url:
            contents.append(self._fetch(guest))
        written = [armor(content) for content in contents]
        paths = [f"{DIRECTORY}/{hashlib.sha256(text).hexdigest()[:16]}.asc" for text in written]
        lines = [f"mkdir -p {DIRECTORY}"]
        for path, text in zip(paths, written, strict=True):
            lines.append(f"base64 -d >{path} <<'END'\n{base64.encodebytes(text).decode()}END")
        guest.run(Command("\n".join(lines) + "\n", place="appliance", packages=True, network=False))
        return tuple(paths)

    def _fetch(self, guest: Guest) -> bytes:
        url = shlex.quote(plain(self.url))
        script = f"curl --fail --silent --show-error --location --max-filesize {MAX_SIZE} -- {url} | base64 -w 0\n"
        shell = "/bin/bash -eo pipefail"
        content = base64.b64decode(guest.capture(Command(script, shell=shell, place="appliance", packages=True)))
        self._check(self.url, content, self.prints)
        return content

    def _check(self, name: str, content: bytes, wanted: tuple[str, ...]) -> None:
        """:raises SpecError, StepError: *content* is no key, or holds one that is not *wanted* (where any is)"""
        error = StepError if name == self.url else SpecError
        try:
            found = fingerprints(content)
        except ValueError as problem:
            raise error(f"{name} is no key", place=self.place, why=str(problem), hint="gpg --show-keys FILE") from None
        for key in found if wanted else ():
            if key not in wanted:
                raise error(
                    f"{name} is not the key that the spec names",
                    place=self.place,
                    why=f"its fingerprint is {key}",
                    hint="correct the fingerprint if you know this one to be right; else do not trust this mirror",
                )


def armor(content: bytes) -> bytes:
    """*content*, a key or several, as one ASCII-armoured block (RFC 9580, section 6), with the checksum that rpm wants.

    :raises ValueError: it is damaged
    """
    binary = dearmor(content)
    body = base64.b64encode(binary).decode()
    lines = [body[start : start + 64] for start in range(0, len(body), 64)]
    lines.append("=" + base64.b64encode(_crc24(binary).to_bytes(3, "big")).decode())
    begin, end = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n", "\n-----END PGP PUBLIC KEY BLOCK-----\n"
    return (begin + "\n".join(lines) + end).encode()


def _crc24(content: bytes) -> int:
    """RFC 9580, section 6.1.1."""
    crc = 0xB704CE
    for byte in content:
        crc ^= byte << 16
        for _ in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def _read(file: Path, place: Place) -> bytes:
    try:
        if file.stat().st_size > MAX_SIZE:
            raise SpecError(f"{file.name} is too large for a key", place=place, hint=f"it has over {MAX_SIZE} bytes")
        return file.read_bytes()
    except OSError as error:
        raise SpecError(f"{file} cannot be read", place=place, why=error.strerror) from error
