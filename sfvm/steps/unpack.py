"""``unpack``: an archive that lies next to the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm.digest import file_digest
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.steps._common import digest, guest_path
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Unpack:
    """Unpack a tar archive (plain, gzip, xz, bzip2 or zstd) into a directory of the guest.

    Example::

        <unpack from="app.tar.xz" to="/opt/app" sha256="…"/>

    ``sha256``, where given, must be the file's. Members that would land outside, devices anywhere but below ``dev``,
    and more than there is room for are refused.
    """

    element: ClassVar[str] = "unpack"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="unpack">
      <attribute name="from"><ref name="string"/></attribute>
      <attribute name="to"><ref name="path"/></attribute>
      <optional><attribute name="sha256"><ref name="sha256"/></attribute></optional>
    </element>"""

    source: Path
    to: str
    sha256: str | None
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.file("from"), guest_path(element, "to"), digest(element), element.place)

    def title(self) -> str:
        return f"unpack {self.source.name} to {self.to}"

    def inputs(self) -> Mapping[str, JSON]:
        found = file_digest(self.source, self.place)
        if self.sha256 and found != self.sha256:
            raise SpecError(
                f"{self.source.name} is not what the spec expects",
                place=self.place,
                why=f"its sha256 is {found}",
                hint="correct the file, or the sha256 if the new content is right",
            )
        return {"to": self.to, "content": {"sha256": found}}

    def run(self, guest: Guest) -> None:
        from sfvm import archives

        blocks = guest.capture(Command("stat -f -c '%f %S' /sysroot", place="appliance", network=False))
        free, size = blocks.split()
        archives.check(self.source, self.source.name, self.place, int(free) * int(size))
        guest.unpack(self.source, self.to)
