"""``image``: the root filesystem out of a disk image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar, Self

from sfvm import qcow2
from sfvm.bases import _partitions
from sfvm.bases.archive import require_digest
from sfvm.document import Element
from sfvm.errors import Place, SfvmError, SpecError
from sfvm.guest import Guest
from sfvm.verbs import JSON

FOREIGN = {b"KDMV": "VMDK", b"COWD": "VMDK", b"vhdxfile": "VHDX", b"conectix": "VHD", b"<<< ": "VDI", b"QED\0": "QED"}
"""How images begin that are neither qcow2 nor raw."""


@dataclass(frozen=True)
class Image:
    """Take one partition (or a filesystem without a table) of a qcow2 or raw image that lies next to the spec.

    Example::

        <base><image from="cloud.qcow2" sha256="…" partition="1" distribution="debian"/></base>

    ``partition`` left out is the largest Linux partition. The filesystem grows to the spec's disk, whose ``format``
    must be the image's. An image that names a backing or data file is refused before anything opens it.
    """

    element: ClassVar[str] = "image"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="image">
      <attribute name="from"><ref name="string"/></attribute>
      <attribute name="sha256"><ref name="sha256"/></attribute>
      <optional><attribute name="partition"><ref name="integer"/></attribute></optional>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
      <optional><attribute name="release"><ref name="word"/></attribute></optional>
    </element>"""

    source: Path
    sha256: str
    partition: int | None
    known: Mapping[str, str]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        known = {name: value for name in ("distribution", "release") if (value := element.get(name))}
        number = element.get("partition")
        return cls(
            element.file("from"),
            element.attributes["sha256"].lower(),
            int(number) if number else None,
            known,
            element.place,
        )

    def title(self) -> str:
        return f"image {self.source.name}"

    def inputs(self) -> Mapping[str, JSON]:
        require_digest(self.source, self.sha256, self.place)
        self._format()
        return {"sha256": self.sha256, "partition": self.partition, "facts": dict(self.known)}

    def facts(self) -> Mapping[str, str]:
        return self.known

    def prepare(self, work: Path, size: int, filesystem: str) -> Path | None:
        work.mkdir(parents=True, exist_ok=True)
        raw, overlay = work / "image.raw", work / "image.qcow2"
        for path in (raw, overlay):
            path.unlink(missing_ok=True)
        try:
            qcow2.qemu_img("convert", "-f", self._format(), "-O", "raw", self.source, raw)
            with raw.open("rb") as disk:
                chosen = self._choose(self._table(disk), raw.stat().st_size)
            if chosen.size > size:
                raise SpecError(
                    f"the partition has {chosen.size >> 20} MiB, the spec's disk {size >> 20} MiB",
                    place=self.place,
                    hint="make the disk larger",
                )
            name = str(raw.absolute()).replace(",", ",,")
            window = f"driver=raw,offset={chosen.offset},size={chosen.size},file.driver=file,file.filename={name}"
            qcow2.qemu_img("convert", "--image-opts", "-O", "qcow2", window, overlay)
            qcow2.qemu_img("resize", "-q", "-f", "qcow2", overlay, str(size))
        finally:
            raw.unlink(missing_ok=True)
        return overlay

    def populate(self, guest: Guest) -> None:
        """Everything is there already."""

    def _format(self) -> str:
        """``qcow2`` or ``raw``, told by how the file begins; qemu-img is never left to guess.

        :raises SpecError: another format, or a qcow2 that QEMU must not open
        """
        with self.source.open("rb") as file:
            start = file.read(8)
        for magic, name in FOREIGN.items():
            if start.startswith(magic):
                raise SpecError(
                    f"{self.source.name} is a {name} image",
                    place=self.place,
                    hint="convert it first: qemu-img convert -O qcow2",
                )
        if not start.startswith(qcow2.MAGIC):
            return "raw"
        try:
            qcow2.require_standalone(self.source)
        except SfvmError as error:
            raise SpecError(error.what, place=self.place, why=error.why, hint=error.hint) from error
        return "qcow2"

    def _table(self, disk: BinaryIO) -> tuple[_partitions.Partition, ...]:
        try:
            return _partitions.read(disk)
        except _partitions.Damaged as error:
            raise SpecError(
                f"the partition table of {self.source.name} cannot be read",
                place=self.place,
                why=str(error),
                hint="look at it with sfdisk -l",
            ) from error

    def _choose(self, partitions: tuple[_partitions.Partition, ...], size: int) -> _partitions.Partition:
        if self.partition is not None:
            for partition in partitions:
                if partition.number == self.partition:
                    return self._inside(partition, size)
            raise SpecError(
                f"{self.source.name} has no partition {self.partition}",
                place=self.place,
                why="it has " + (", ".join(str(p.number) for p in partitions) or "no partition table"),
                hint="leave partition out, or name one that is there",
            )
        if not partitions:
            return _partitions.Partition(0, 0, size, True)
        linux = [partition for partition in partitions if partition.linux]
        if not linux:
            raise SpecError(
                f"{self.source.name} has no Linux partition", place=self.place, hint="name one: partition=…"
            )
        return self._inside(max(linux, key=lambda partition: partition.size), size)

    def _inside(self, partition: _partitions.Partition, size: int) -> _partitions.Partition:
        if partition.offset + partition.size > size:
            raise SpecError(
                f"partition {partition.number} of {self.source.name} reaches beyond its disk",
                place=self.place,
                why="the image is truncated or its table is damaged",
                hint="fetch or make it again",
            )
        return partition
