"""``container-disk``: a disk in a container image, as KubeVirt takes it from a registry."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.oci import write_layout, writing_layer, writing_tar
from sfvm.bundle.outputs._files import matching
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import BundleError, Place

OWNER = 107
"""qemu's number, user and group, in KubeVirt's pods (KubeVirt's user guide, "containerDisk")."""


@dataclass(frozen=True)
class ContainerDisk:
    """The artifact ``of`` (a raw or qcow2 disk), as the one file in ``/disk`` of an OCI image, which it goes into.

    Example::

        <container-disk of="*.qcow2" as="${name}.oci.tar"/>

    The image is a tar of its layout (``oci-archive``), tagged ``latest``. Its layer is not compressed, for the
    disk can be.
    """

    element: ClassVar[str] = "container-disk"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="container-disk">
      <attribute name="of"><ref name="string"/></attribute>
      <attribute name="as"><ref name="string"/></attribute>
    </element>"""

    of: str
    name: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.attributes["of"], element.attributes["as"], element.place)

    def title(self) -> str:
        return f"container-disk {self.name}"

    def inputs(self) -> Mapping[str, Any]:
        return {"of": self.of, "as": self.name}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: there is not one disk
        """
        disk, *more = matching(stage, (self.of,), self.place)
        if more:
            raise BundleError(
                "a container disk has one disk", place=self.place, why=f"{self.of} matches {disk}, {', '.join(more)}"
            )
        path, epoch = stage.directory / disk, stage.epoch
        stage.progress(0)
        with (
            path.open("rb") as source,
            writing_layer("none", f"sfvm {stage.facts['name']}", stage.directory) as layer,
            writing_tar(layer) as tar,
        ):
            tar.addfile(_member("disk", tarfile.DIRTYPE, 0o555, epoch))
            member = _member(f"disk/{disk}", tarfile.REGTYPE, 0o444, epoch, path.stat().st_size)
            tar.addfile(member, source)
        target = stage.new(self.name, self.place)
        architecture = stage.facts["facts"].get("architecture", "x86_64")
        with stage.writing(target) as file:
            for done in write_layout([layer.layer], architecture, {}, epoch, file):
                stage.progress(0.5 + done / 2)
        stage.drop(disk)


def _member(name: str, kind: bytes, mode: int, epoch: int, size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.mtime, member.size = kind, mode, epoch, size
    member.uid = member.gid = OWNER
    return member
