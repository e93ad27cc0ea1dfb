"""``vmdk-stream``: the disk as VMware's compressed stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.stage import Stage
from sfvm.bundle.vmdk import Descriptor, TooLarge, write_stream
from sfvm.document import Element
from sfvm.errors import BundleError, Place


@dataclass(frozen=True)
class VmdkStream:
    """The disk as a streamOptimized VMDK, as OVF packages have it: compressed by all CPUs, and complete with the
    end-of-stream marker, which ``qemu-img`` leaves out; importers find another digest than the manifest's then.

    Example::

        <vmdk-stream adapter="lsilogic" hardware="14" as="${name}-disk1.vmdk"/>

    ``adapter`` is ``lsilogic`` (for pvscsi and AHCI, too), ``buslogic`` or ``ide``; ``hardware`` is VMware's version of
    the virtual machine. Equal disks stay equal.
    """

    element: ClassVar[str] = "vmdk-stream"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="vmdk-stream">
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="adapter">
        <choice><value>lsilogic</value><value>buslogic</value><value>ide</value></choice>
      </attribute></optional>
      <optional><attribute name="hardware"><ref name="integer"/></attribute></optional>
    </element>"""

    name: str
    adapter: str
    hardware: int
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(
            element.attributes["as"],
            element.get("adapter") or "lsilogic",
            int(element.get("hardware") or 14),
            element.place,
        )

    def title(self) -> str:
        return "vmdk-stream"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "adapter": self.adapter, "hardware": self.hardware}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the format has no layout, so there is no disk; or it is too large
        """
        disk, target = stage.raw(self.place), stage.new(self.name, self.place)
        content = stage.uuid(f"content of {self.name}").int & 0x7FFFFFFF
        descriptor = Descriptor(self.name, self.adapter, self.hardware, content)
        try:
            with stage.writing(target) as file:
                write_stream(disk, file, descriptor, stage.progress)
        except TooLarge as error:
            raise BundleError(
                f"{self.name} cannot be a VMDK", place=self.place, why=str(error), hint="choose another format"
            ) from error
