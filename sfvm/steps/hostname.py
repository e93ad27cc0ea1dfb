"""``hostname``: the machine's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.verbs import JSON


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
        return cls(element.attributes["name"], element.place)

    def title(self) -> str:
        return f"hostname {self.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"name": self.name}

    def run(self, guest: Guest) -> None:
        short = self.name.partition(".")[0]
        guest.write("/etc/hostname", f"{short}\n".encode())
        before = guest.read("/etc/hosts").decode() if guest.exists("/etc/hosts") else "127.0.0.1\tlocalhost\n"
        kept = [line for line in before.splitlines() if not line.startswith("127.0.1.1")]
        names = self.name if short == self.name else f"{self.name} {short}"
        guest.write("/etc/hosts", ("\n".join([*kept, f"127.0.1.1\t{names}"]) + "\n").encode())
