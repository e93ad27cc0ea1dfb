"""``kernel``: the node's kernel and initramfs as files of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from sfvm.bundle.stage import Stage, Unfit
from sfvm.bundle.vmlinux import Packed, vmlinux
from sfvm.document import Element
from sfvm.errors import Place


@dataclass(frozen=True)
class KernelVerb:
    """The node's newest kernel, and its initramfs, for platforms that load them from outside of the disk.

    Example::

        <kernel as="${name}.vmlinuz" initrd="${name}.initrd"/>

    ``decompress="yes"`` takes the ELF file out of the kernel's own compression (gzip, bzip2, xz, lzma, lz4, zstd), for
    loaders that do not know it.
    """

    element: ClassVar[str] = "kernel"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("kernel",)
    schema: ClassVar[str] = """
    <element name="kernel">
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="initrd"><ref name="string"/></attribute></optional>
      <optional><attribute name="decompress"><ref name="yes-no"/></attribute></optional>
    </element>"""

    name: str
    initrd: str
    decompress: bool
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.attributes["as"], element.get("initrd") or "", element.flag("decompress"), element.place)

    def title(self) -> str:
        return f"kernel {self.name}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "initrd": self.initrd, "decompress": self.decompress}

    def make(self, stage: Stage) -> None:
        """Write the artifacts.

        :raises Unfit: the node has no kernel, or no initramfs, or the kernel cannot be unpacked
        """
        source = self._found(stage.vmlinuz, "kernel", "/boot has no vmlinuz-*")
        with stage.writing(stage.new(self.name, self.place)) as file:
            if self.decompress:
                try:
                    file.write(vmlinux(source.read_bytes()))
                except Packed as error:
                    raise Unfit(
                        "the kernel cannot be unpacked",
                        place=self.place,
                        why=str(error),
                        hint="leave it compressed, if the platform can load it so",
                    ) from error
            else:
                with source.open("rb") as kernel:
                    shutil.copyfileobj(kernel, file)
        if self.initrd:
            found = self._found(stage.initrd, "initramfs", "/boot has none of the kernel's version")
            with found.open("rb") as initrd, stage.writing(stage.new(self.initrd, self.place)) as file:
                shutil.copyfileobj(initrd, file)

    def _found(self, path: Path | None, what: str, why: str) -> Path:
        if path is None:
            raise Unfit(f"the node has no {what}", place=self.place, why=why, hint="install one in the node")
        return path
