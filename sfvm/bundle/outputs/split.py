"""``split``: a large artifact in parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.outputs._files import matching
from sfvm.bundle.outputs._parts import parse_size
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place

BLOCK = 4 << 20


@dataclass(frozen=True)
class Split:
    """Artifacts made so far in parts of ``size``, which replace them: ``NAME.000``, ``NAME.001``, …; ``cat NAME.*`` is
    the whole again.

    Example::

        <split of="*.tar.zst" size="2G"/>
    """

    element: ClassVar[str] = "split"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="split">
      <attribute name="of"><ref name="words"/></attribute>
      <attribute name="size"><ref name="size"/></attribute>
    </element>"""

    of: tuple[str, ...]
    size: int
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.words("of"), parse_size(element.attributes["size"], element.place), element.place)

    def title(self) -> str:
        return "split"

    def inputs(self) -> Mapping[str, Any]:
        return {"of": list(self.of), "size": self.size}

    def make(self, stage: Stage) -> None:
        """Write the parts.

        :raises BundleError: a pattern without an artifact
        """
        for name in matching(stage, self.of, self.place):
            source = stage.directory / name
            total = source.stat().st_size
            with source.open("rb") as file:
                for number in range(max(1, -(-total // self.size))):
                    with stage.writing(stage.new(f"{name}.{number:03d}", self.place)) as part:
                        left = self.size
                        while left and (block := file.read(min(left, BLOCK))):
                            part.write(block)
                            left -= len(block)
                            stage.progress(file.tell() / max(total, 1))
            stage.drop(name)
