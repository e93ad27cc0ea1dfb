"""``squashfs``: the node's files as a compressed, read-only filesystem."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.members import refuse_acls
from sfvm.bundle.programs import program, run
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place, SpecError

MOST_LEVEL = {"zstd": 22, "gzip": 9}


@dataclass(frozen=True)
class Squashfs:
    """All files of the node as a squashfs filesystem: owners, hard links, device nodes, xattrs, file capabilities.

    Example::

        <squashfs as="${name}.squashfs" compression="zstd"/>

    ``compression`` is ``zstd``, ``xz`` or ``gzip``; ``level`` is that of zstd (1 to 22, else 15) or gzip (1 to 9, else
    9): a lower one is faster and larger. squashfs has no POSIX ACLs: a node with some is an error, unless
    ``acls="drop"`` leaves them out. Made on the host by tar2sqfs (squashfs-tools-ng), which, unlike sqfstar 4.5, keeps
    the root directory's owner and time; equal trees are equal files.
    """

    element: ClassVar[str] = "squashfs"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("archive",)
    schema: ClassVar[str] = """
    <element name="squashfs">
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="compression">
        <choice><value>zstd</value><value>xz</value><value>gzip</value></choice>
      </attribute></optional>
      <optional><attribute name="level"><ref name="string"/></attribute></optional>
      <optional><attribute name="acls"><choice><value>refuse</value><value>drop</value></choice></attribute></optional>
    </element>"""

    name: str
    compression: str
    level: str
    drop_acls: bool
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        compression, level = element.get("compression") or "zstd", element.get("level") or ""
        most = MOST_LEVEL.get(compression, 0)
        if level and not (level.isascii() and level.isdigit() and 1 <= int(level) <= most):
            raise SpecError(
                f"{compression} has no level {level!r}",
                place=element.place_of("level"),
                hint=f"1 to {most}" if most else "leave it out, or choose zstd or gzip",
            )
        return cls(element.attributes["as"], compression, level, element.get("acls") == "drop", element.place)

    def title(self) -> str:
        return f"squashfs {self.compression}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "compression": self.compression, "level": self.level, "drop_acls": self.drop_acls}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: files have ACLs; tar2sqfs is not there, or fails
        """
        archive = stage.tree(self.place)
        if not self.drop_acls:
            refuse_acls(archive, "squashfs", self.place, lambda fraction: stage.progress(fraction / 10))
        target = stage.new(self.name, self.place)
        words = [
            program("tar2sqfs", "squashfs-tools-ng", self.place),
            *("--quiet", "--compressor", self.compression, "--block-size", "1M"),
            *(["--comp-extra", f"level={self.level}"] if self.level else []),
            *("--num-jobs", str(os.cpu_count() or 1)),
            # What cannot be stored ends it, rather than be left out.
            *([] if self.drop_acls else ["--no-skip"]),
            str(target),
        ]
        run(words, stage, self.place, archive, {"SOURCE_DATE_EPOCH": str(stage.epoch)})
