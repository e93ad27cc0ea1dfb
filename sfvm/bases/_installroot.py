"""What bases share that fill /sysroot with a package manager of the appliance."""

from __future__ import annotations

import re

from sfvm.document import Element
from sfvm.errors import SpecError
from sfvm.guest import KEPT

NAMES = r"[A-Za-z0-9][A-Za-z0-9@._+:~^=-]*"
"""Names of packages, patterns and repositories, and ``NAME=VERSION``: no options, no globs, nothing for a shell."""
URL = r"https?://[^\s\"'\\`?#@]+"
CACHE = f"{KEPT}/installroot"
"""Where downloads are meanwhile: neither in the guest nor in memory."""
MOUNTED = """\
mkdir -p /sysroot/proc /sysroot/sys /sysroot/dev /sysroot/run
mount -t proc proc /sysroot/proc
mount -t sysfs -o ro sysfs /sysroot/sys
mount --rbind /dev /sysroot/dev
mount -t tmpfs -o mode=755 tmpfs /sysroot/run
"""
"""A script: what packages' own scripts expect to find. The command's mount namespace ends, and all of it with it."""
SYNCED = "sync --file-system /sysroot\n"
"""A script: what was written under ``nosync`` goes to the disk, or the command fails."""


def server(element: Element) -> str:
    """The attribute ``mirror``, where that is not empty, else ``url``: http or https, without its last slashes.

    :raises SpecError: it is none
    """
    name = "mirror" if element.get("mirror") else "url"
    text = element.attributes[name]
    if not re.fullmatch(URL, text):
        raise SpecError(
            f"{element.tag} {name}={text!r} is no http or https URL",
            place=element.place_of(name),
            hint="write it in full, without a user: https://HOST/PATH",
        )
    return text.rstrip("/")


def names(element: Element, name: str) -> tuple[str, ...]:
    """The attribute *name*, names of packages or repositories.

    :raises SpecError: one is none
    """
    found = element.words(name)
    for word in found:
        if not re.fullmatch(NAMES, word):
            raise SpecError(
                f"{element.tag} {name}: {word!r} is no name",
                place=element.place_of(name),
                hint="names are separated by blanks; options have attributes",
            )
    return found
