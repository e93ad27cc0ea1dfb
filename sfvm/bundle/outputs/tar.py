"""``tar``: the node's files as one archive."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

from sfvm.bundle.compression import XZ_LEVEL, Sink, compressed
from sfvm.bundle.members import copy
from sfvm.bundle.outputs._files import matching
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place, SpecError

BLOCK = 4 << 20


@dataclass(frozen=True)
class Tar:
    """All files of the node: numeric owners, modes, hard links, device nodes, xattrs, ACLs, file capabilities.

    Example::

        <tar as="${name}.tar.gz" compression="gzip"/>
        <tar first="metadata.yaml" below="rootfs" devices="no" as="${name}.tar.xz" compression="xz"/>

    ``compression`` is ``none``, ``gzip``, ``xz`` or ``zstd``; equal archives stay equal. ``level`` is that of xz, 0 to
    9: 6 unless it is given; 1 takes a quarter of the time. ``below`` is a directory that the files are put into;
    ``first`` are artifacts that come before them, and are in it only: a path there ends with the name of the artifact.
    ``devices="no"`` leaves out device nodes, which only root can unpack.
    """

    element: ClassVar[str] = "tar"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("archive",)
    schema: ClassVar[str] = """
    <element name="tar">
      <attribute name="as"><ref name="string"/></attribute>
      <optional>
        <attribute name="compression">
          <choice><value>none</value><value>gzip</value><value>xz</value><value>zstd</value></choice>
        </attribute>
      </optional>
      <optional><attribute name="level"><ref name="integer"/></attribute></optional>
      <optional><attribute name="below"><ref name="string"/></attribute></optional>
      <optional><attribute name="first"><ref name="words"/></attribute></optional>
      <optional><attribute name="devices"><ref name="yes-no"/></attribute></optional>
    </element>"""

    name: str
    compression: str
    level: int
    below: str
    first: tuple[str, ...]
    devices: bool
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        level = int(element.get("level") or XZ_LEVEL)
        if not 0 <= level <= 9:
            raise SpecError(f"tar: there is no level {level}", place=element.place_of("level"), hint="0 to 9")
        return cls(
            element.attributes["as"],
            element.get("compression") or "none",
            level,
            (element.get("below") or "").strip("/"),
            element.words("first"),
            element.flag("devices", default=True),
            element.place,
        )

    def title(self) -> str:
        return f"tar {self.compression}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "compression": self.compression, "level": self.level, "below": self.below,
                "first": list(self.first), "devices": self.devices}  # fmt: skip

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the format has a layout, so a disk was made and no archive
        """
        archive, target = stage.tree(self.place), stage.new(self.name, self.place)
        as_it_is = not self.below and not self.first and self.devices
        if as_it_is and self.compression == "none":
            stage.keep(archive, target)
            return
        with stage.writing(target) as file, compressed(self.compression, file, self.level) as sink:
            if as_it_is:
                self._whole(archive, sink, stage)
            else:
                for path in self.first:
                    self._artifact(path, sink, stage)
                copy(archive, sink, self._wanted, stage.progress, self.below)
        for path in self.first:
            stage.drop(PurePosixPath(path).name)

    def _wanted(self, member: tarfile.TarInfo) -> bool:
        return self.devices or not (member.ischr() or member.isblk())

    @staticmethod
    def _whole(archive: Path, sink: Sink, stage: Stage) -> None:
        total, done = max(archive.stat().st_size, 1), 0
        with archive.open("rb") as source:
            while block := source.read(BLOCK):
                sink.write(block)
                done += len(block)
                stage.progress(done / total)

    def _artifact(self, path: str, sink: Sink, stage: Stage) -> None:
        (name,) = matching(stage, (PurePosixPath(path).name,), self.place)
        content = (stage.directory / name).read_bytes()
        member = tarfile.TarInfo(path)
        member.size, member.mode, member.mtime = len(content), 0o644, stage.epoch
        sink.write(member.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE))
