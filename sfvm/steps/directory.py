"""``directory``: a directory and its missing parents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.steps._common import guest_path, mode, octal
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Directory:
    """Make a directory; what exists is only given the mode and owner that are named.

    Example::

        <directory path="/srv/www" mode="0755" owner="www-data"/>
    """

    element: ClassVar[str] = "directory"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="directory">
      <attribute name="path"><ref name="path"/></attribute>
      <optional><attribute name="owner"><ref name="owner"/></attribute></optional>
      <optional><attribute name="mode"><ref name="mode"/></attribute></optional>
    </element>"""

    path: str
    mode: int | None
    owner: str | None
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(guest_path(element), mode(element), element.get("owner"), element.place)

    def title(self) -> str:
        return f"directory {self.path}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"path": self.path, "mode": octal(self.mode), "owner": self.owner}

    def run(self, guest: Guest) -> None:
        guest.directory(self.path, mode=self.mode, owner=self.owner)
