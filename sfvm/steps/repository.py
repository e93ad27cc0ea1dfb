"""``repository``: where the guest's own package manager finds more packages, and whose signature it takes for them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.keys import SCHEMA, Keys
from sfvm.managers import Source, find
from sfvm.managers.apk import rsa_keys
from sfvm.steps._common import word
from sfvm.verbs import JSON

SUITE = r"[A-Za-z0-9.][A-Za-z0-9.+_:/~-]*"


@dataclass(frozen=True)
class Repository:
    """Add a repository of packages to the guest's own package manager (apt, dnf, zypper, apk, pacman), with its key.

    Example::

        <repository name="example" url="https://packages.example.org/debian" suites="bookworm" components="main"
                    key-url="https://packages.example.org/key.asc"
                    fingerprint="0123 4567 89AB CDEF 0123 4567 89AB CDEF 0123 4567"/>
        <packages install="example-tool"/>

    ``suites`` and ``components`` are apt's (a suite that is a directory, such as ``./``, has no components); ``url`` is
    the rest's whole address, in which pacman and dnf know variables of their own (``$repo``, ``$releasever``).

    Signatures are always checked, by the keys that are given here: ``keys`` are files beside the spec; the key at
    ``key-url`` is taken if it has the ``fingerprint``; ``rsa-keys`` are apk's, whose files must have the names that its
    signatures tell. ``signed="packages"`` is for repositories whose index has no signature while every package has one
    (dnf, zypper, pacman; many for Fedora and CentOS are so). Repository and keys stay in the guest, for its upgrades.
    """

    element: ClassVar[str] = "repository"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = f"""
    <element name="repository">
      <attribute name="name"><ref name="name"/></attribute>
      <attribute name="url"><ref name="string"/></attribute>
      <optional><attribute name="suites"><ref name="words"/></attribute></optional>
      <optional><attribute name="components"><ref name="words"/></attribute></optional>
      <optional>
        <attribute name="signed"><choice><value>index</value><value>packages</value></choice></attribute>
      </optional>
      <optional><attribute name="rsa-keys"><ref name="words"/></attribute></optional>{SCHEMA}
    </element>"""

    source: Source
    keys: Keys
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        suites, components = element.words("suites"), element.words("components")
        for name in (*suites, *components):
            if not re.fullmatch(SUITE, name):
                raise SpecError(
                    f"repository: {name!r} is no name of a suite or component",
                    place=element.place,
                    hint="names are separated by blanks",
                )
        rsa = rsa_keys(element)
        keys = Keys.parse(element)
        if not (keys or rsa):
            raise SpecError(
                "repository has no key",
                place=element.place,
                why="nothing is installed whose signature cannot be checked",
                hint='say keys="FILE", or key-url and fingerprint',
            )
        # No blank and no bracket: it must be neither a second line nor an option (trusted=yes) of a configuration.
        pattern = r"https?://[^\s\[\]@\\\"'`]+"
        source = Source(
            word(element, "name", r"[a-z0-9][a-z0-9._-]*", "docker"),
            word(element, "url", pattern, "https://packages.example.org/debian, without a user or password"),
            suites,
            components,
            (element.get("signed") or "index") == "index",
            rsa,
        )
        return cls(source, keys, element.place)

    def title(self) -> str:
        return f"repository {self.source.name}"

    def inputs(self) -> Mapping[str, JSON]:
        source = self.source
        return {
            "name": source.name,
            "url": source.url,
            "suites": list(source.suites),
            "components": list(source.components),
            "index": source.index,
            "rsa": dict(source.rsa),
            "keys": self.keys.inputs(),
        }

    def run(self, guest: Guest) -> None:
        addition = find(guest).add(self.source, self.keys.write(guest))
        for path, content in addition.files.items():
            guest.write(path, content.encode())
        guest.run(Command(addition.script, packages=True, network=False))
