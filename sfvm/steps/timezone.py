"""``timezone``: local time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError, StepError
from sfvm.guest import Guest
from sfvm.verbs import JSON


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
        name = element.attributes["name"]
        if name.startswith("/") or ".." in name.split("/"):
            raise SpecError(
                f"{name!r} is no time zone", place=element.place_of("name"), hint="for example Europe/Berlin"
            )
        return cls(name, element.place)

    def title(self) -> str:
        return f"timezone {self.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"name": self.name}

    def run(self, guest: Guest) -> None:
        zone = f"/usr/share/zoneinfo/{self.name}"
        if self.name != "UTC" and not guest.exists(zone):
            raise StepError(
                f"the guest has no {zone}", why="a misspelt name, or no tzdata", hint="install tzdata first"
            )
        guest.symlink("/etc/localtime", zone)
        guest.write("/etc/timezone", f"{self.name}\n".encode())
