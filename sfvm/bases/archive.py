"""``archive``: a root filesystem from a tarball."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.bases._room import filling
from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.sources import SCHEMA, Source
from sfvm.verbs import JSON, Attached, Host


@dataclass(frozen=True)
class Archive:
    """Unpack a tar archive (plain, gzip, xz, bzip2 or zstd) as the root filesystem.

    Example::

        <base><archive from="rootfs.tar.xz" sha256="…" distribution="alpine"/></base>

    ``from`` is a file next to the spec; ``src`` that, or a URL: http, https, sftp, or file. Members that would land
    outside, devices anywhere but below ``dev``, and more than the spec's disk can hold are refused.
    """

    element: ClassVar[str] = "archive"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = f"""
    <element name="archive">{SCHEMA}
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
      <optional><attribute name="release"><ref name="word"/></attribute></optional>
    </element>"""

    source: Source
    known: Mapping[str, str]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        known = {name: value for name in ("distribution", "release") if (value := element.get(name))}
        return cls(Source.parse(element), known, element.place)

    def title(self) -> str:
        return f"archive {self.source.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {**self.source.inputs(), "facts": dict(self.known)}

    def facts(self) -> Mapping[str, str]:
        return self.known

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        from sfvm import archives  # tarfile takes long to import

        path = self.source.fetch(host)
        archives.check(path, self.source.name, self.place, host.size, stop=host.stop)
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        with filling(self.source.name, self.place):
            guest.unpack(self.source.fetch(host), "/")
