"""``convert``: the disk in the format of a hypervisor."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.identifiers import settle
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place, SpecError


@dataclass(frozen=True)
class Convert:
    """The disk as one file, as ``qemu-img convert`` writes it: always standalone, without a backing file.

    Example::

        <convert to="qcow2" options="compat=1.1" compress="zlib" as="${name}.qcow2"/>

    ``to`` is one of QEMU's formats, ``options`` are its creation options, ``compress`` is ``no``, ``zlib`` or ``zstd``
    (qcow2; old readers know only zlib). Identifiers and times in it are those of the node: equal disks are equal files.
    """

    element: ClassVar[str] = "convert"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="convert">
      <attribute name="to">
        <choice>
          <value>raw</value><value>qcow2</value><value>vmdk</value><value>vpc</value><value>vhdx</value><value>vdi</value>
        </choice>
      </attribute>
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="options"><ref name="string"/></attribute></optional>
      <optional><attribute name="subformat"><ref name="word"/></attribute></optional>
      <optional>
        <attribute name="compress"><choice><value>no</value><value>zlib</value><value>zstd</value></choice></attribute>
      </optional>
    </element>"""

    to: str
    name: str
    options: str
    compress: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        options = [element.get("options") or ""]
        if subformat := element.get("subformat"):
            options.append(f"subformat={subformat}")
        compress = element.get("compress") or "no"
        to = element.attributes["to"]
        if compress != "no":
            if to != "qcow2":
                raise SpecError(
                    f"compress is for qcow2, not for {to}", place=element.place_of("compress"), hint="leave it out"
                )
            options.append(f"compression_type={compress}")
        joined = ",".join(option for option in options if option)
        return cls(to, element.attributes["as"], joined, compress, element.place)

    def title(self) -> str:
        return f"convert {self.to}"

    def inputs(self) -> Mapping[str, Any]:
        return {"to": self.to, "as": self.name, "options": self.options, "compress": self.compress}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the format has no layout, so there is no disk
        """
        target = stage.new(self.name, self.place)
        if self.to == "raw" or stage.disk is None:
            stage.keep(stage.raw(self.place), target)
            return
        options = ["-o", self.options] if self.options else []
        compress = [] if self.compress == "no" else ["-c"]
        stage.disk.convert(target, self.to, *compress, *options, progress=stage.progress, stop=stage.stop)
        settle(target, self.to, stage.uuid(self.name), stage.epoch)
        # Some VMDKs are a descriptor and extents: NAME-flat.vmdk, NAME-s001.vmdk.
        extents = stage.directory.glob(f"{glob.escape(target.stem)}-*{target.suffix}") if self.to == "vmdk" else ()
        stage.made.extend(sorted(path.name for path in extents if path.name not in stage.made))
