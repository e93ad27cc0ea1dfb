"""``erofs``: the node's files as a read-only filesystem that keeps everything."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import BundleError, Place

MARGIN = 64 << 20
SUPERBLOCK, MAGIC = 1024, 0xE0F5E1E2
COMPRESSIONS = {"lz4": ["-zlz4"], "lz4hc": ["-zlz4hc"], "none": []}


@dataclass(frozen=True)
class Erofs:
    """All files of the node as an EROFS filesystem: owners, hard links, device nodes, xattrs, ACLs, file capabilities.

    Example::

        <erofs as="${name}.erofs" compression="lz4hc"/>

    ``compression`` is ``lz4hc``, ``lz4`` or ``none``. Made in a helper VM by mkfs.erofs (erofs-utils), where the files
    are; equal trees are equal files.
    """

    element: ClassVar[str] = "erofs"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="erofs">
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="compression">
        <choice><value>lz4hc</value><value>lz4</value><value>none</value></choice>
      </attribute></optional>
    </element>"""

    name: str
    compression: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.attributes["as"], element.get("compression") or "lz4hc", element.place)

    def title(self) -> str:
        return f"erofs {self.compression}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "compression": self.compression}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: mkfs.erofs fails
        """
        stage.require_files(self.place)
        most = 2 * stage.capacity + MARGIN
        target = stage.new(self.name, self.place)
        assert stage.machine is not None
        with target.open("xb") as file:
            file.truncate(most)  # sparse; files of the node with holes have none here
        stage.progress(0)
        words = ["mkfs.erofs", "--quiet", *COMPRESSIONS[self.compression], f"-U{stage.uuid(self.name)}"]
        words += ["--exclude-path=lost+found", '"$1"', "/sysroot"]
        # Later times are what sysprep has changed; it is the time of the filesystem, too.
        stage.machine(f"SOURCE_DATE_EPOCH={stage.epoch} {' '.join(words)} >/dev/null\nsync $1", target)
        with target.open("r+b") as file:
            file.truncate(size(target, self.place))


def size(path: Path, place: Place) -> int:
    """The bytes of the filesystem in *path*.

    Source: Linux, ``fs/erofs/erofs_fs.h`` (struct erofs_super_block: magic, blkszbits at 12, blocks at 36).

    :raises BundleError: there is none
    """
    with path.open("rb") as file:
        file.seek(SUPERBLOCK)
        magic, bits, blocks = struct.unpack("<I8xB23xI", file.read(40))
    if magic != MAGIC:
        raise BundleError("mkfs.erofs has made no filesystem", place=place)
    return int(blocks << bits)
