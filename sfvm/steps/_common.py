"""What several verbs share. Modules whose name begins with an underscore are no verbs."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable

from sfvm.document import Element
from sfvm.errors import SpecError


def guest_path(element: Element, name: str = "path") -> str:
    """The attribute *name*: an absolute path of the guest without ``..``.

    :raises SpecError: it is anything else
    """
    path = element.attributes[name]
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise SpecError(
            f"{element.tag} {name}={path!r} is no absolute path of the guest",
            place=element.place_of(name),
            hint="begin with / and leave out ..",
        )
    return posixpath.normpath(path)


def mode(element: Element, default: int | None = None) -> int | None:
    """The attribute ``mode`` as a number.

    :raises SpecError: it is not octal
    """
    text = element.get("mode")
    if text is None:
        return default
    try:
        value = int(text, 8)
    except ValueError:
        value = -1
    if not 0 <= value <= 0o7777:
        raise SpecError(f"mode {text!r} is not octal", place=element.place_of("mode"), hint="for example 0644 or 4755")
    return value


def flags(pairs: Iterable[tuple[str, str | None]]) -> str:
    """Options of a command line from those of *pairs* that have a value, quoted."""
    return " ".join(f"{option} {shlex.quote(value)}" for option, value in pairs if value)
