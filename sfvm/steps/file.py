"""``file``: a file whose content stands in the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.steps._common import guest_path, mode
from sfvm.verbs import JSON


@dataclass(frozen=True)
class File:
    """Write a file; its text is the element's, exactly, variables replaced unless ``expand="no"``.

    Example::

        <file path="/etc/motd" mode="0644">Welcome to ${site}
        </file>
    """

    element: ClassVar[str] = "file"
    version: ClassVar[int] = 1
    expand: ClassVar[bool] = True
    schema: ClassVar[str] = """
    <element name="file">
      <attribute name="path"><ref name="path"/></attribute>
      <optional><attribute name="owner"><ref name="owner"/></attribute></optional>
      <optional><attribute name="mode"><ref name="mode"/></attribute></optional>
      <optional><attribute name="expand"><ref name="yes-no"/></attribute></optional>
      <text/>
    </element>"""

    path: str
    text: str
    mode: int
    owner: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        owner = element.get("owner") or "root:root"
        return cls(guest_path(element), element.text, mode(element, 0o644) or 0, owner, element.place)

    def title(self) -> str:
        return f"file {self.path}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"path": self.path, "text": self.text, "mode": f"{self.mode:04o}", "owner": self.owner}

    def run(self, guest: Guest) -> None:
        guest.write(self.path, self.text.encode(), mode=self.mode, owner=self.owner)
