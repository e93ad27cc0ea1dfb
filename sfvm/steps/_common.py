"""What several verbs share. Modules whose name begins with an underscore are no verbs."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable

from sfvm.document import Element
from sfvm.errors import SpecError
from sfvm.guest import Command, Guest

STATUS = """\
root=$1 rest=$2 here= hops=0
while [ -n "$rest" ]; do
    rest=${rest#/} name=${rest%%/*}
    case $rest in */*) rest=/${rest#*/} ;; *) rest= ;; esac
    case $name in '' | .) continue ;; ..) here=${here%/*}; continue ;; esac
    if [ -L "$root$here/$name" ]; then
        hops=$((hops + 1))
        [ $hops -le 40 ] || { echo "$2: too many levels of symbolic links" >&2; exit 1; }
        target=$(readlink "$root$here/$name"; echo .) target=${target%??}
        case $target in /*) here= ;; esac
        rest=/$target$rest
    else
        here=$here/$name
    fi
done
stat -c '%a %u:%g' "$root$here"
printf '%s\n' "$here"
"""
"""Shell: the mode, the owner in numbers and the real path of what stands at $2 below the root $1. It follows symlinks
as the guest would: seen from outside, an absolute one would lead into the appliance."""


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
    return "/" + posixpath.normpath(path).lstrip("/")


def word(element: Element, name: str, pattern: str, example: str, default: str | None = None) -> str:
    """The attribute *name*, which must match *pattern*; *default* where it is left out or empty and has one.

    :raises SpecError: it does not; *example* is the hint
    """
    value = element.get(name) or ""
    if not value and default is not None:
        return default
    if not re.fullmatch(pattern, value):
        raise SpecError(
            f"{element.tag} {name}={value!r} is not possible",
            place=element.place_of(name),
            hint=f"for example {example}",
        )
    return value


def digest(element: Element) -> str | None:
    """The attribute ``sha256`` as hashlib writes it."""
    value = element.get("sha256")
    return value.lower() if value is not None else None


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


def octal(bits: int | None) -> str | None:
    """A mode as people write it, for key inputs."""
    return None if bits is None else f"{bits:04o}"


def status(guest: Guest, path: str) -> tuple[str, int, str]:
    """The real path of the file at *path*, symlinks followed inside the guest, its mode, and its owner in numbers."""
    script = f"set -- /sysroot {shlex.quote(path)}\n{STATUS}"
    numbers, _, real = guest.capture(Command(script, place="appliance", network=False)).partition("\n")
    bits, owner = numbers.split()
    return real.removesuffix("\n"), int(bits, 8), owner


def named(database: str, name: str) -> str:
    """A shell condition: the guest's *database* (``passwd`` or ``group``) knows *name*."""
    return f"cut -d: -f1 /etc/{database} | grep -qxF {shlex.quote(name)}"


def flags(pairs: Iterable[tuple[str, str | None]]) -> str:
    """Options of a command line from those of *pairs* that have a value, quoted."""
    return " ".join(f"{option} {shlex.quote(value)}" for option, value in pairs if value)
