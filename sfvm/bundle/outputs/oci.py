"""``oci``: the node as a container image."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.members import copy
from sfvm.bundle.oci import write_layout, writing_layer
from sfvm.bundle.packing import EMPTY
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place

ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


@dataclass(frozen=True)
class Oci:
    """The node as an OCI image: a tar of the image's layout (``oci-archive``), tagged ``latest``.

    Example::

        <oci as="${name}.oci.tar" layers="each" compression="gzip" command="/sbin/init"/>

    ``layers`` is ``each``: a layer for every node of the chain, the same in all images that share the node, and one
    for what bundling changed; or ``one``. ``compression`` is ``gzip``, ``zstd`` or ``none``; ``command`` is what a
    container runs, words as a shell reads them. /dev, /proc, /sys and /run are empty: a container's are mounted.
    """

    element: ClassVar[str] = "oci"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="oci">
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="layers"><choice><value>each</value><value>one</value></choice></attribute></optional>
      <optional><attribute name="compression">
        <choice><value>none</value><value>gzip</value><value>zstd</value></choice>
      </attribute></optional>
      <optional><attribute name="command"><ref name="string"/></attribute></optional>
    </element>"""

    name: str
    layers: str
    compression: str
    command: tuple[str, ...]
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(
            element.attributes["as"],
            element.get("layers") or "each",
            element.get("compression") or "gzip",
            element.shell_words("command", "/bin/sh"),
            element.place,
        )

    @property
    def needs(self) -> tuple[str, ...]:
        return ("layers" if self.layers == "each" else "archive",)

    def title(self) -> str:
        return f"oci {self.compression}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "layers": self.layers, "compression": self.compression, "command": list(self.command)}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the format has a layout
        """
        stage.require_files(self.place)
        target = stage.new(self.name, self.place)
        sources = stage.layers if self.layers == "each" else (stage.tree(self.place),)
        layers, steps = [], len(sources) + 1
        for number, source in enumerate(sources):
            part = functools.partial(_part, stage.progress, number, steps)
            with writing_layer(self.compression, f"sfvm {stage.facts['name']}", stage.directory) as writer:
                copy(source, writer, _kept, part)
            layers.append(writer.layer)
        architecture = stage.facts["facts"].get("architecture", "x86_64")
        config = {"Env": ENVIRONMENT, "Cmd": list(self.command)}
        with stage.writing(target) as file:
            for done in write_layout(layers, architecture, config, stage.epoch, file):
                _part(stage.progress, len(sources), steps, done)


def _part(progress: Callable[[float], None], number: int, steps: int, fraction: float) -> None:
    progress((number + fraction) / steps)


def _kept(member: tarfile.TarInfo) -> bool:
    """Whether a file is in layers."""
    top, _, below = member.name.partition("/")
    return not (below and top in EMPTY)
