"""``cpio``: the node's files as an initramfs."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from sfvm.bundle.compression import Sink, compressed
from sfvm.bundle.members import members, reading
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import BundleError, Place

BLOCK = 1 << 20
TYPES = {
    tarfile.REGTYPE: 0o100000,
    tarfile.AREGTYPE: 0o100000,
    tarfile.LNKTYPE: 0o100000,
    tarfile.SYMTYPE: 0o120000,
    tarfile.DIRTYPE: 0o040000,
    tarfile.CHRTYPE: 0o020000,
    tarfile.BLKTYPE: 0o060000,
    tarfile.FIFOTYPE: 0o010000,
}
"""The kind of a file in its mode (inode(7))."""
MOST = 0xFFFFFFFF
"""Every number in a header has eight hexadecimal digits."""
TRAILER = "TRAILER!!!"


@dataclass(frozen=True)
class Header:
    """One file's header. Sizes are in bytes, *mtime* in seconds since 1970."""

    name: str
    inode: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    links: int = 1
    mtime: int = 0
    size: int = 0
    device: tuple[int, int] = (0, 0)

    def encode(self) -> bytes:
        """As bytes with the name, up to where the content begins: on a multiple of four.

        Source: Linux, ``Documentation/driver-api/early-userspace/buffer-format.rst``; cpio(5), "New ASCII Format".

        :raises ValueError: a number that it cannot hold
        """
        name = self.name.encode("utf-8", errors="surrogateescape") + b"\0"
        owner = (self.uid, self.gid)
        numbers = (self.inode, self.mode, *owner, self.links, self.mtime, self.size, 0, 0, *self.device, len(name), 0)
        if any(not 0 <= number <= MOST for number in numbers):
            raise ValueError(f"{self.name} has {max(self.size, self.uid, self.gid)}, which is more than 32 bits hold")
        return padded(b"070701" + b"".join(b"%08x" % number for number in numbers) + name)


@dataclass(frozen=True)
class Cpio:
    """All files of the node as a cpio archive (newc), which Linux takes for an initramfs: owners, hard links, device
    nodes; xattrs, ACLs and file capabilities are lost, for cpio has none.

    Example::

        <cpio as="${name}.cpio.gz" compression="gzip" init="/sbin/init"/>

    ``compression`` is ``none``, ``gzip`` or ``zstd``. ``init`` is what /init links to, the program that the kernel
    starts, where the node has no /init.
    """

    element: ClassVar[str] = "cpio"
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ("archive",)
    schema: ClassVar[str] = """
    <element name="cpio">
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="compression">
        <choice><value>none</value><value>gzip</value><value>zstd</value></choice>
      </attribute></optional>
      <optional><attribute name="init"><ref name="path"/></attribute></optional>
    </element>"""

    name: str
    compression: str
    init: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(
            element.attributes["as"], element.get("compression") or "none", element.get("init") or "", element.place
        )

    def title(self) -> str:
        return f"cpio {self.compression}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "compression": self.compression, "init": self.init}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: a file is too large for cpio (4 GiB)
        """
        archive, target = stage.tree(self.place), stage.new(self.name, self.place)
        with stage.writing(target) as file, compressed(self.compression, file) as sink:
            try:
                write(archive, sink, stage, self.init)
            except ValueError as error:
                raise BundleError(
                    f"{self.name} cannot be made",
                    place=self.place,
                    why=str(error),
                    hint="a squashfs has no such limit",
                ) from error


def write(archive: Path, sink: Sink, stage: Stage, init: str = "") -> None:
    """The members of the tar *archive* as a cpio archive.

    A file with several names has its content with the first one: the kernel, GNU cpio and libarchive take both ways.

    :raises ValueError: a number that cpio cannot hold
    """
    with reading(archive) as tar:
        links = Counter(member.linkname for member in members(tar, lambda _: stage.progress(0)) if member.islnk())
    inodes: dict[str, Header] = {}  # of files with several names
    number, has_init = 0, False
    with reading(archive) as tar:
        for member in members(tar, stage.progress):
            has_init |= member.name == "init"
            if member.type not in TYPES:
                raise ValueError(f"{member.name} is of a kind that it does not have")
            if member.islnk():
                sink.write(replace(inodes[member.linkname], name=member.name, size=0).encode())
                continue
            number += 1
            content = member.linkname.encode("utf-8", errors="surrogateescape") if member.issym() else b""
            header = Header(
                member.name,
                number,
                TYPES[member.type] | member.mode,
                member.uid,
                member.gid,
                2 if member.isdir() else 1 + links[member.name],
                min(max(int(member.mtime), 0), MOST),
                member.size if member.isreg() else len(content),
                (member.devmajor, member.devminor) if member.isdev() and not member.isfifo() else (0, 0),
            )
            if links[member.name]:
                inodes[member.name] = header
            sink.write(header.encode())
            if member.isreg():
                _copy(tar, member, sink, stage)
            else:
                sink.write(padded(content))
    if init and not has_init:
        content = init.encode()
        sink.write(Header("init", number + 1, 0o120777, mtime=stage.epoch, size=len(content)).encode())
        sink.write(padded(content))
    sink.write(Header(TRAILER).encode())


def _copy(tar: tarfile.TarFile, member: tarfile.TarInfo, sink: Sink, stage: Stage) -> None:
    source = tar.extractfile(member)
    assert source is not None
    while block := source.read(BLOCK):
        sink.write(block)
        stage.stop.check()
    sink.write(bytes(-member.size % 4))


def padded(data: bytes) -> bytes:
    """*data* with zeros up to a multiple of four bytes."""
    return data + bytes(-len(data) % 4)
