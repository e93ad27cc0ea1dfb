"""``timezone``: local time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, StepError
from sfvm.guest import Guest
from sfvm.steps._common import word
from sfvm.verbs import JSON

MAGIC = b"TZif"
"""How a time zone file begins (RFC 8536)."""


@dataclass(frozen=True)
class Timezone:
    """Set /etc/localtime (and Debian's /etc/timezone).

    Example::

        <timezone name="Europe/Berlin"/>
    """

    element: ClassVar[str] = "timezone"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = '<element name="timezone"><attribute name="name"><ref name="string"/></attribute></element>'

    name: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(word(element, "name", r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*", "Europe/Berlin"), element.place)

    def title(self) -> str:
        return f"timezone {self.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"name": self.name}

    def run(self, guest: Guest) -> None:
        zone = f"/usr/share/zoneinfo/{self.name}"
        # Without tzdata there is no file for UTC, either, and the C library takes it for UTC nevertheless.
        if self.name != "UTC" and not (guest.exists(zone) and guest.read(zone).startswith(MAGIC)):
            raise StepError(
                f"the guest has no time zone {self.name}",
                why=f"{zone} is no time zone file: a misspelt name, or no tzdata",
                hint="correct the name, or install tzdata first",
            )
        guest.symlink("/etc/localtime", zone)
        guest.write("/etc/timezone", f"{self.name}\n".encode())
