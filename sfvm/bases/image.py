"""``image``: the root filesystem out of a disk image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.bases import _inspection
from sfvm.bases._formats import identify
from sfvm.bases._room import filling
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.sources import SCHEMA, Source
from sfvm.verbs import JSON, Attached, Host


@dataclass(frozen=True)
class Image:
    """Take the root filesystem of a disk image: qcow2, raw, VMDK (one file), VDI, VHDX or VHD, as clouds publish them.

    Example::

        <base><image src="https://example.org/cloud.qcow2" sha256="…" distribution="debian"/></base>

    ``from`` is a file next to the spec; ``src`` that, or a URL: http, https, sftp, or file. The root is the filesystem
    with an os-release or an fstab, on a partition, a logical volume (LVM), in a subvolume of btrfs, or on the whole
    disk. Its files, and those of all that its fstab mounts from the same image (a separate /boot, subvolumes), are
    copied into the spec's disk, whatever its ``format`` is, and the entries of fstab for them become comments.
    ``partition`` and ``subvolume`` name the root where that is not clear. An image that needs or names another file (a
    backing file, a parent, extents) is refused before anything opens it.
    """

    element: ClassVar[str] = "image"
    version: ClassVar[int] = 3
    schema: ClassVar[str] = f"""
    <element name="image">{SCHEMA}
      <optional><attribute name="partition"><ref name="integer"/></attribute></optional>
      <optional><attribute name="subvolume"><ref name="word"/></attribute></optional>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
      <optional><attribute name="release"><ref name="word"/></attribute></optional>
    </element>"""

    source: Source
    partition: int | None
    subvolume: str | None
    known: Mapping[str, str]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        known = {name: value for name in ("distribution", "release") if (value := element.get(name))}
        number = element.get("partition")
        return cls(
            Source.parse(element), int(number) if number else None, element.get("subvolume"), known, element.place
        )

    def title(self) -> str:
        return f"image {self.source.name}"

    def inputs(self) -> Mapping[str, JSON]:
        inputs = self.source.inputs()
        if self.source.path is not None:
            identify(self.source.path, self.source.name, self.place)
        return {**inputs, "partition": self.partition, "subvolume": self.subvolume, "facts": dict(self.known)}

    def facts(self) -> Mapping[str, str]:
        return self.known

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        path = self.source.fetch(host)
        return (Attached(path, identify(path, self.source.name, self.place)),)

    def populate(self, guest: Guest, host: Host) -> None:
        look = Command(_inspection.looking(self.subvolume), shell="/bin/bash -e", place="appliance", network=False)
        told = guest.capture(look)
        try:
            found = _inspection.devices(told)
            device, subvolume = _inspection.root(found, self.partition, self.subvolume)
        except _inspection.Unclear as error:
            raise SpecError(
                f"the root filesystem of {self.source.name} is not clear",
                place=self.place,
                why=str(error),
                hint="name it: partition=…, and subvolume=… where it is btrfs",
            ) from error
        script = _inspection.copying(_inspection.mounts(found, device, subvolume))
        with filling(self.source.name, self.place):
            guest.run(Command(script, shell="/bin/bash -e", place="appliance", network=False))
        if guest.exists("/etc/fstab"):
            before = guest.read("/etc/fstab").decode("utf-8", errors="surrogateescape")
            after = _inspection.without_disks(before).encode("utf-8", errors="surrogateescape")
            guest.write("/etc/fstab", after)
