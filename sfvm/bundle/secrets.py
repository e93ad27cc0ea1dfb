"""What the user gives that nobody else is to know: it is read where it is named, and shown nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfvm.errors import UsageError

MOST = 8 << 20
"""Bytes: cryptsetup's own limit for a key file (``cryptsetup --help``)."""


@dataclass(frozen=True)
class Secret:
    """The secret *name*; its *value* is in no text that Python makes of it."""

    name: str
    value: bytes = field(repr=False)


def read(words: Sequence[str]) -> Mapping[str, Secret]:
    """The secrets of *words*, each ``NAME=file:PATH`` or ``NAME=env:VARIABLE``: what is there, without a newline at its
    end. The variable is removed from our environment, which other programs inherit.

    :raises UsageError: there is no such thing, or nothing in it
    """
    found = {}
    for word in words:
        name, _, source = word.partition("=")
        kind, colon, where = source.partition(":")
        if not name or not colon or kind not in ("file", "env"):
            # The word itself could be the secret.
            raise UsageError(
                "a secret is told by where it is", hint="--secret NAME=file:PATH, or --secret NAME=env:VARIABLE"
            )
        found[name] = Secret(name, _file(name, where) if kind == "file" else _variable(name, where))
    return found


def _file(name: str, where: str) -> bytes:
    try:
        with Path(where).open("rb") as file:
            value = file.read(MOST + 1).removesuffix(b"\n")
    except OSError as error:
        raise UsageError(f"the secret {name!r} cannot be read", why=f"{where}: {error.strerror}") from None
    if not value or len(value) > MOST:
        raise UsageError(f"the secret {name!r} is {'too long' if value else 'empty'}", why=where)
    return value


def _variable(name: str, where: str) -> bytes:
    value = os.environb.pop(where.encode(), b"")
    if not value:
        raise UsageError(f"the secret {name!r} is empty", why=f"there is nothing in the variable {where}")
    return value
