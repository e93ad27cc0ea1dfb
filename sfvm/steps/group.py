"""``group``: a group of users."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Command, Guest
from sfvm.steps import _accounts
from sfvm.steps._common import named, word
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Group:
    """Create a group; one that exists stays as it is.

    Example::

        <group name="deploy" gid="2000"/>
    """

    element: ClassVar[str] = "group"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="group">
      <attribute name="name"><ref name="name"/></attribute>
      <optional><attribute name="gid"><ref name="integer"/></attribute></optional>
      <optional><attribute name="system"><ref name="yes-no"/></attribute></optional>
    </element>"""

    name: str
    gid: str | None
    system: bool
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        gid = word(element, "gid", r"[0-9]+", "2000", default="") or None
        return cls(element.attributes["name"], gid, element.flag("system"), element.place)

    def title(self) -> str:
        return f"group {self.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"name": self.name, "gid": self.gid, "system": self.system}

    def run(self, guest: Guest) -> None:
        if guest.exists("/usr/sbin/groupadd"):
            options = f"{'--system ' if self.system else ''}{f'--gid {self.gid} ' if self.gid else ''}"
            script = f"{named('group', self.name)} || groupadd {options}{shlex.quote(self.name)}\n"
            guest.run(Command(script, network=False))
        else:
            _accounts.add_group(guest, self.name, self.gid, system=self.system)
