"""``checksum``: a file with the digests of other artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.outputs._files import matching
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place

STYLES = {
    "sums": "{digest}  {name}\n",
    "bsd": "{algorithm} ({name}) = {digest}\n",
    "ovf": "{algorithm}({name})= {digest}\n",
}
"""``sha256sum``; ``sha256sum --tag``; the manifest of an OVF package (DMTF DSP0243, section 9)."""


@dataclass(frozen=True)
class Checksum:
    """Digests of the artifacts made so far, in the order they were made.

    Example::

        <checksum algorithm="sha256" style="ovf" of="*.ovf *.vmdk" as="${name}.mf"/>

    ``style`` is ``sums`` (as sha256sum writes them), ``bsd`` or ``ovf``; ``of`` are patterns of file names (all, when
    it is left out). Every bundle has ``SHA256SUMS`` anyway.
    """

    element: ClassVar[str] = "checksum"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="checksum">
      <attribute name="as"><ref name="string"/></attribute>
      <optional>
        <attribute name="algorithm">
          <choice><value>md5</value><value>sha1</value><value>sha256</value><value>sha512</value></choice>
        </attribute>
      </optional>
      <optional>
        <attribute name="style"><choice><value>sums</value><value>bsd</value><value>ovf</value></choice></attribute>
      </optional>
      <optional><attribute name="of"><ref name="words"/></attribute></optional>
    </element>"""

    name: str
    algorithm: str
    style: str
    of: tuple[str, ...]
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(
            element.attributes["as"],
            element.get("algorithm") or "sha256",
            element.get("style") or "sums",
            element.words("of") or ("*",),
            element.place,
        )

    def title(self) -> str:
        return f"checksum {self.algorithm}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "algorithm": self.algorithm, "style": self.style, "of": list(self.of)}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: a pattern that no artifact has
        """
        found = matching(stage, self.of, self.place)
        wanted = [name for name in stage.made if name in found]
        target = stage.new(self.name, self.place)
        lines = []
        for name in wanted:
            digest = stage.digest(name, self.algorithm)
            lines.append(STYLES[self.style].format(algorithm=self.algorithm.upper(), name=name, digest=digest))
        target.write_text("".join(lines), encoding="utf-8")
