"""``hostname``: the machine's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.steps._common import word
from sfvm.verbs import JSON

LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"


@dataclass(frozen=True)
class Hostname:
    """Write /etc/hostname, and 127.0.1.1 in /etc/hosts.

    Example::

        <hostname name="web1.example.org"/>
    """

    element: ClassVar[str] = "hostname"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = '<element name="hostname"><attribute name="name"><ref name="name"/></attribute></element>'

    name: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(word(element, "name", rf"{LABEL}(\.{LABEL})*", "web1.example.org"), element.place)

    def title(self) -> str:
        return f"hostname {self.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"name": self.name}

    def run(self, guest: Guest) -> None:
        short = self.name.partition(".")[0]
        guest.write("/etc/hostname", f"{short}\n".encode())
        before = guest.read("/etc/hosts") if guest.exists("/etc/hosts") else b"127.0.0.1\tlocalhost\n"
        kept = [line for line in before.splitlines() if line.split()[:1] != [b"127.0.1.1"]]
        names = self.name if short == self.name else f"{self.name} {short}"
        guest.write("/etc/hosts", b"".join(line + b"\n" for line in [*kept, f"127.0.1.1\t{names}".encode()]))
