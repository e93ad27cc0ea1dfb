"""``busybox``: a tiny root filesystem, in seconds, without a network."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm.digest import file_digest
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.verbs import JSON, Attached, Host

DIRECTORIES = (
    "dev",
    "etc",
    "home",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "usr/bin",
    "usr/sbin",
    "var/log",
)
PT_INTERP = 3
PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = b"root:x:0:\nnogroup:x:65534:\n"


@dataclass(frozen=True)
class Busybox:
    """The host's statically linked busybox with its applets, /etc/passwd and /etc/group, and the usual directories.

    Example::

        <base><busybox/></base>
    """

    element: ClassVar[str] = "busybox"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = '<element name="busybox"><empty/></element>'

    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.place)

    def title(self) -> str:
        return "busybox"

    def inputs(self) -> Mapping[str, JSON]:
        binary = self._binary()
        if not static(binary):
            raise SpecError(
                f"{binary} is linked dynamically",
                place=self.place,
                why="the guest has no libraries",
                hint="./bootstrap installs one that is not (Debian: busybox-static)",
            )
        return {"busybox": {"sha256": file_digest(binary, self.place)}}

    def facts(self) -> Mapping[str, str]:
        return {"distribution": "busybox"}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        for name in DIRECTORIES:
            guest.directory(f"/{name}")
        guest.directory("/tmp", mode=0o1777)
        guest.write("/etc/passwd", PASSWD)
        guest.write("/etc/group", GROUP)
        guest.upload(self._binary(), "/bin/busybox", mode=0o755)
        guest.run(Command("/bin/busybox --install -s", shell="/bin/busybox sh -e", network=False))

    def _binary(self) -> Path:
        found = shutil.which("busybox", path="/bin:/usr/bin:/sbin:/usr/sbin")
        if found is None:
            raise SpecError(
                "there is no busybox on this machine",
                place=self.place,
                hint="./bootstrap installs it (Debian: busybox-static)",
            )
        return Path(found)


def static(binary: Path) -> bool:
    """Whether the program *binary* is an ELF file that needs no interpreter (elf(5): no program header PT_INTERP)."""
    with binary.open("rb") as file:
        start = file.read(64)
        if len(start) < 64 or start[:4] != b"\x7fELF" or start[4] not in (1, 2) or start[5] not in (1, 2):
            return False
        order = "<" if start[5] == 1 else ">"
        at, size, count = (
            (*struct.unpack_from(f"{order}Q", start, 32), *struct.unpack_from(f"{order}HH", start, 54))
            if start[4] == 2
            else (*struct.unpack_from(f"{order}I", start, 28), *struct.unpack_from(f"{order}HH", start, 42))
        )
        file.seek(at)
        headers = file.read(size * count)
    kinds = [
        struct.unpack_from(f"{order}I", headers, number * size)[0] for number in range(len(headers) // max(size, 1))
    ]
    return PT_INTERP not in kinds
