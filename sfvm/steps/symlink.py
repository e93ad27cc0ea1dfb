"""``symlink``: a symbolic link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Guest
from sfvm.steps._common import guest_path
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Symlink:
    """Make ``path`` a symbolic link with the text ``target``; an older link or file is replaced.

    Example::

        <symlink path="/etc/localtime" target="/usr/share/zoneinfo/UTC"/>
    """

    element: ClassVar[str] = "symlink"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="symlink">
      <attribute name="path"><ref name="path"/></attribute>
      <attribute name="target"><ref name="string"/></attribute>
    </element>"""

    path: str
    target: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        if not element.attributes["target"]:
            raise SpecError("symlink: target is empty", place=element.place_of("target"), hint="say where it leads")
        return cls(guest_path(element), element.attributes["target"], element.place)

    def title(self) -> str:
        return f"symlink {self.path} to {self.target}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"path": self.path, "target": self.target}

    def run(self, guest: Guest) -> None:
        guest.symlink(self.path, self.target)
