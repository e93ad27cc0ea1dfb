"""``compress``: artifacts compressed, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.compression import compressed
from sfvm.bundle.outputs._files import matching
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place

SUFFIXES = {"gzip": ".gz", "xz": ".xz", "zstd": ".zst"}
BLOCK = 4 << 20


@dataclass(frozen=True)
class Compress:
    """Artifacts made so far, compressed: each gets a suffix (``.gz``, ``.xz``, ``.zst``) and replaces what it was.

    Example::

        <compress of="*.img" with="xz"/>

    ``with`` is ``gzip``, ``xz`` or ``zstd``. Equal files stay equal; all CPUs are used.
    """

    element: ClassVar[str] = "compress"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="compress">
      <attribute name="of"><ref name="words"/></attribute>
      <attribute name="with"><choice><value>gzip</value><value>xz</value><value>zstd</value></choice></attribute>
    </element>"""

    of: tuple[str, ...]
    kind: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.words("of"), element.attributes["with"], element.place)

    def title(self) -> str:
        return f"compress {self.kind}"

    def inputs(self) -> Mapping[str, Any]:
        return {"of": list(self.of), "with": self.kind}

    def make(self, stage: Stage) -> None:
        """Write the artifacts.

        :raises BundleError: a pattern without an artifact
        """
        for name in matching(stage, self.of, self.place):
            source = stage.directory / name
            target = stage.new(f"{name}{SUFFIXES[self.kind]}", self.place)
            total, done = max(source.stat().st_size, 1), 0
            with source.open("rb") as file, stage.writing(target) as out, compressed(self.kind, out) as sink:
                while block := file.read(BLOCK):
                    sink.write(block)
                    done += len(block)
                    stage.progress(done / total)
            stage.drop(name)
