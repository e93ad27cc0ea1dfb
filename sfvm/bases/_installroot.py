"""What bases share that fill /sysroot with a package manager of the appliance."""

from __future__ import annotations

import re

from sfvm.document import Element
from sfvm.errors import SpecError
from sfvm.guest import KEPT
from sfvm.keys import Keys
from sfvm.managers.manager import Source

NAMES = r"[A-Za-z0-9][A-Za-z0-9@._+:~^=-]*"
"""Names of packages, patterns and repositories, and ``NAME=VERSION``: no options, no globs, nothing for a shell."""
URL = r"https?://[^\s\"'\\`?#@]+"
CACHE = f"{KEPT}/installroot"
"""Where downloads are meanwhile: neither in the guest nor in memory."""
PLACES = """
      <attribute name="distribution"><ref name="word"/></attribute>
      <attribute name="release"><ref name="word"/></attribute>
      <attribute name="url"><ref name="string"/></attribute>
      <optional><attribute name="mirror"><ref name="string"/></attribute></optional>
      <attribute name="repositories"><ref name="words"/></attribute>
      <optional><attribute name="include"><ref name="words"/></attribute></optional>"""
"""A fragment of a schema: what is installed, and from where."""
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


def repositories(element: Element, url: str, *, prefix: str = "", index: bool = True) -> tuple[Source, ...]:
    """The attribute ``repositories``, words ``NAME=PATH``: names, with *prefix*, and their places below *url*. *index*
    tells whether their metadata are signed.

    :raises SpecError: a word is none
    """
    found = []
    for word in element.words("repositories"):
        name, equals, path = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) or not re.fullmatch(r"[\w$.+/-]+", path):
            raise SpecError(
                f"{element.tag}: repository {word!r} is not NAME=PATH",
                place=element.place_of("repositories"),
                hint="for example baseos=9-stream/BaseOS/$basearch/os, a place below the url",
            )
        found.append(Source(f"{prefix}{name}", f"{url}/{path.strip('/')}", index=index))
    return tuple(found)


def required_keys(element: Element) -> Keys:
    """The keys of a distribution, of which there must be one.

    :raises SpecError: there is none, or what :meth:`Keys.parse` refuses
    """
    found = Keys.parse(element)
    if not found:
        raise SpecError(
            f"{element.tag} has no keys",
            place=element.place,
            why="the signatures of packages are always checked",
            hint="name the files of the distribution's keys, keys=\"keys/….asc\", or a mirror's fingerprint",
        )
    return found
