"""``unpack``: an archive that lies next to the spec."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm.digest import file_digest
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.sources import WEB, require_url
from sfvm.steps._common import digest, guest_path
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Unpack:
    """Unpack a tar archive (plain, gzip, xz, bzip2 or zstd) into a directory of the guest.

    Example::

        <unpack from="app.tar.xz" to="/opt/app" sha256="…"/>

    ``from`` is a file next to the spec; ``src`` that, or an http or https URL, which the host fetches once. ``sha256``,
    where given, must be the file's; what comes from a URL needs one. Members that would land outside, devices anywhere
    but below ``dev``, and more than there is room for are refused.
    """

    element: ClassVar[str] = "unpack"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="unpack">
      <choice>
        <attribute name="from"><ref name="string"/></attribute>
        <attribute name="src"><ref name="string"/></attribute>
      </choice>
      <attribute name="to"><ref name="path"/></attribute>
      <optional><attribute name="sha256"><ref name="sha256"/></attribute></optional>
    </element>"""

    source: Path | None
    url: str
    to: str
    sha256: str | None
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        name = "from" if "from" in element.attributes else "src"
        sha256, to = digest(element), guest_path(element, "to")
        if name == "from" or "://" not in element.attributes[name]:
            return cls(element.file(name), "", to, sha256, element.place)
        url = element.attributes[name]
        require_url(url, element.place_of(name), schemes=WEB)
        if sha256 is None:
            hint = "what comes from a URL needs one"
            raise SpecError("unpack has no sha256", place=element.place_of(name), hint=hint)
        return cls(None, url, to, sha256, element.place)

    @property
    def _name(self) -> str:
        return self.source.name if self.source is not None else posixpath.basename(self.url)

    def title(self) -> str:
        return f"unpack {self._name} to {self.to}"

    def inputs(self) -> Mapping[str, JSON]:
        if self.source is None:
            return {"to": self.to, "content": {"sha256": self.sha256}}
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
        path = self.source or guest.fetch(self.url, self.sha256 or "")
        archives.check(path, self._name, self.place, int(free) * int(size))
        guest.unpack(path, self.to)
