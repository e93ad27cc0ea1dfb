"""``kernel``: the node's kernel and initramfs as files of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import BundleError, Place


@dataclass(frozen=True)
class KernelVerb:
    """The node's newest kernel, and its initramfs, for platforms that load them from outside of the disk.

    Example::

        <kernel as="${name}.vmlinuz" initrd="${name}.initrd"/>
    """

    element: ClassVar[str] = "kernel"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("kernel",)
    schema: ClassVar[str] = """
    <element name="kernel">
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="initrd"><ref name="string"/></attribute></optional>
    </element>"""

    name: str
    initrd: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.attributes["as"], element.get("initrd") or "", element.place)

    def title(self) -> str:
        return f"kernel {self.name}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "initrd": self.initrd}

    def make(self, stage: Stage) -> None:
        """Write the artifacts.

        :raises BundleError: the node has no kernel or no initramfs
        """
        source = self._found(stage.vmlinuz, "kernel", "/boot has no vmlinuz-*")
        with stage.writing(stage.new(self.name, self.place)) as file, source.open("rb") as kernel:
            shutil.copyfileobj(kernel, file)
        if self.initrd:
            found = self._found(stage.initrd, "initramfs", "/boot has none of the kernel's version")
            with found.open("rb") as initrd, stage.writing(stage.new(self.initrd, self.place)) as file:
                shutil.copyfileobj(initrd, file)

    def _found(self, path: Path | None, what: str, why: str) -> Path:
        if path is None:
            raise BundleError(f"the node has no {what}", place=self.place, why=why, hint="install one in the node")
        return path
