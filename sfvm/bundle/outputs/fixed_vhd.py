"""``fixed-vhd``: the disk as a VHD of fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.identifiers import settle
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import BundleError, Place

MIB = 1 << 20


@dataclass(frozen=True)
class FixedVhd:
    """The raw disk followed by a footer: what Azure takes. The disk is a multiple of 1 MiB, and keeps its size.

    Example::

        <fixed-vhd as="${name}.vhd"/>

    Time and identifier in the footer are those of the node: equal disks are equal files.
    """

    element: ClassVar[str] = "fixed-vhd"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="fixed-vhd"><attribute name="as"><ref name="string"/></attribute></element>"""

    name: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.attributes["as"], element.place)

    def title(self) -> str:
        return "convert fixed vhd"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the format has no layout; the disk's size is no multiple of 1 MiB
        """
        if stage.disk is None:
            stage.raw(self.place)  # says so
            return
        if stage.disk.size % MIB:
            raise BundleError(
                "a fixed VHD is a multiple of 1 MiB",
                place=self.place,
                why=f"the disk has {stage.disk.size} bytes",
                hint='<layout multiple="1M">',
            )
        target = stage.new(self.name, self.place)
        # force_size: without it QEMU rounds the size to whole cylinders.
        options = ("-o", "subformat=fixed,force_size=on")
        stage.disk.convert(target, "vpc", *options, progress=stage.progress, stop=stage.stop)
        settle(target, "vpc", stage.uuid("vhd"), stage.epoch)
