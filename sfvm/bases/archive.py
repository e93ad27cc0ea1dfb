"""``archive``: a root filesystem from a tarball."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm.digest import file_digest
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Guest
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Archive:
    """Unpack a tar archive (plain, gzip, xz, bzip2 or zstd) that lies next to the spec as the root filesystem.

    Example::

        <base><archive from="rootfs.tar.xz" sha256="…" distribution="alpine"/></base>
    """

    element: ClassVar[str] = "archive"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="archive">
      <attribute name="from"><ref name="string"/></attribute>
      <attribute name="sha256"><ref name="sha256"/></attribute>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
      <optional><attribute name="release"><ref name="word"/></attribute></optional>
    </element>"""

    source: Path
    sha256: str
    known: Mapping[str, str]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        known = {name: value for name in ("distribution", "release") if (value := element.get(name))}
        return cls(element.file("from"), element.attributes["sha256"].lower(), known, element.place)

    def title(self) -> str:
        return f"archive {self.source.name}"

    def inputs(self) -> Mapping[str, JSON]:
        require_digest(self.source, self.sha256, self.place)
        return {"sha256": self.sha256, "facts": dict(self.known)}

    def facts(self) -> Mapping[str, str]:
        return self.known

    def prepare(self, work: Path, size: int, filesystem: str) -> Path | None:
        from sfvm import archives

        archives.check(self.source, self.place)
        return None

    def populate(self, guest: Guest) -> None:
        guest.unpack(self.source, "/")


def require_digest(source: Path, sha256: str, place: Place) -> None:
    """:raises SpecError: the file at *source* has another SHA-256"""
    found = file_digest(source, place)
    if found != sha256:
        raise SpecError(
            f"{source.name} is not what the spec expects",
            place=place,
            why=f"its sha256 is {found}",
            hint="correct the file, or the sha256 if the new content is right",
        )
