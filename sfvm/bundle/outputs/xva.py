"""``xva``: a virtual machine as XenServer and XCP-ng export and import it."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from sfvm.bundle.compression import Sink
from sfvm.bundle.holes import next_data
from sfvm.bundle.outputs.layout import parse_size
from sfvm.bundle.stage import Stage
from sfvm.bundle.xapi import VDI, Machine, ova_xml
from sfvm.document import Element
from sfvm.errors import Place

CHUNK = 1 << 20
"""Bytes of the disk in one member of the archive (xapi-project/xen-api, ``ocaml/xapi/stream_vdi.ml``)."""
_ZEROS = bytes(CHUNK)


@dataclass(frozen=True)
class Xva:
    """The disk and a description of a virtual machine (HVM) in one file, which ``xe vm-import`` takes.

    Example::

        <xva as="${name}.xva" memory="1G" vcpus="2" firmware="bios" network="Pool-wide network associated with eth0"/>

    ``label`` is what the machine is called (the node's name, if nothing is said), ``firmware`` is ``bios`` or ``uefi``,
    and ``network`` is the label of a network of the host's.
    """

    element: ClassVar[str] = "xva"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="xva">
      <attribute name="as"><ref name="string"/></attribute>
      <attribute name="memory"><ref name="size"/></attribute>
      <attribute name="vcpus"><ref name="integer"/></attribute>
      <attribute name="network"><ref name="string"/></attribute>
      <optional><attribute name="label"><ref name="string"/></attribute></optional>
      <optional>
        <attribute name="firmware"><choice><value>bios</value><value>uefi</value></choice></attribute>
      </optional>
    </element>"""

    name: str
    memory: int
    vcpus: int
    network: str
    label: str
    firmware: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        attributes = element.attributes
        return cls(
            attributes["as"],
            parse_size(attributes["memory"], element.place_of("memory")),
            int(attributes["vcpus"]),
            attributes["network"],
            element.get("label") or "",
            element.get("firmware") or "bios",
            element.place,
        )

    def title(self) -> str:
        return "xva"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "memory": self.memory, "vcpus": self.vcpus, "network": self.network,
                "label": self.label, "firmware": self.firmware}  # fmt: skip

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the format has no layout, so there is no disk
        """
        disk = stage.raw(self.place)
        count = -(-disk.stat().st_size // CHUNK)
        machine = Machine(
            self.label or stage.facts["name"],
            f"node {stage.facts['key']}",
            self.memory,
            self.vcpus,
            self.firmware,
            self.network,
            count * CHUNK,
            stage.uuid,
            stage.epoch,
        )
        with stage.writing(stage.new(self.name, self.place)) as file:
            _member(file, "ova.xml", ova_xml(machine), stage.epoch)  # must be the first
            for number, chunk, digest in _hashed(_chunks(disk)):
                name = f"{VDI}/{number:08d}"
                _member(file, name, chunk, stage.epoch)
                _member(file, f"{name}.checksum", digest.encode(), stage.epoch)
                stage.progress((number + 1) / count)
            file.write(bytes(2 * tarfile.BLOCKSIZE))


def _member(file: Sink, name: str, data: bytes, epoch: int) -> None:
    """A member of a tar archive; xapi reads ustar."""
    header = tarfile.TarInfo(name)
    header.size, header.mtime = len(data), epoch
    file.write(header.tobuf(tarfile.USTAR_FORMAT))
    file.write(data)
    file.write(bytes(-len(data) % tarfile.BLOCKSIZE))


def _chunks(disk: Path) -> Iterator[tuple[int, bytes]]:
    """Numbers and contents of the chunks of *disk* that are in an XVA: the first one, from which xapi learns their
    size, the last one, at which it ends, and all that are not zeros. The last one is filled up with zeros."""
    with disk.open("rb") as file:
        descriptor, size = file.fileno(), disk.stat().st_size
        number, last = 0, -(-size // CHUNK) - 1
        while number <= last:
            data = os.pread(descriptor, CHUNK, number * CHUNK).ljust(CHUNK, b"\0")
            if number in (0, last) or data != _ZEROS:
                yield number, data
            if number == last:
                return
            number = min(next_data(descriptor, (number + 1) * CHUNK, size) // CHUNK, last)


def _hashed(chunks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes, str]]:
    """*chunks* and their SHA-1, which several threads take; a few chunks are in memory at once."""
    workers = min(os.cpu_count() or 1, 4)  # the SHA-256 of all is taken by one thread, and no faster
    pending: deque[tuple[int, bytes, Future[str]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="xva") as pool:
        for number, data in chunks:
            pending.append((number, data, pool.submit(_sha1, data)))
            if len(pending) > 2 * workers:
                yield _done(pending)
        while pending:
            yield _done(pending)


def _done(pending: deque[tuple[int, bytes, Future[str]]]) -> tuple[int, bytes, str]:
    number, data, digest = pending.popleft()
    return number, data, digest.result()


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()
