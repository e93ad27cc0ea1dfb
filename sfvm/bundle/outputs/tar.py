"""``tar``: the node's files as one archive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.compression import compressed
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place

BLOCK = 4 << 20


@dataclass(frozen=True)
class Tar:
    """All files of the node: numeric owners, modes, hard links, device nodes, xattrs, ACLs, file capabilities.

    Example::

        <tar as="${name}.tar.gz" compression="gzip"/>

    ``compression`` is ``none``, ``gzip``, ``xz`` or ``zstd``; equal archives stay equal.
    """

    element: ClassVar[str] = "tar"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="tar">
      <attribute name="as"><ref name="string"/></attribute>
      <optional>
        <attribute name="compression">
          <choice><value>none</value><value>gzip</value><value>xz</value><value>zstd</value></choice>
        </attribute>
      </optional>
    </element>"""

    name: str
    compression: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.attributes["as"], element.get("compression") or "none", element.place)

    def title(self) -> str:
        return f"tar {self.compression}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "compression": self.compression}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the format has a layout, so a disk was made and no archive
        """
        archive, target = stage.tree(self.place), stage.new(self.name, self.place)
        if self.compression == "none":
            stage.keep(archive, target)
            return
        with (
            archive.open("rb") as source,
            stage.writing(target) as file,
            compressed(self.compression, file) as sink,
        ):
            total, done = max(archive.stat().st_size, 1), 0
            while block := source.read(BLOCK):
                sink.write(block)
                done += len(block)
                stage.progress(done / total)
