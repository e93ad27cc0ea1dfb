"""``mmdebstrap``: a Debian or one of its kin, installed by the appliance's tools."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Command, Guest
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Mmdebstrap:
    """A first package set, by mmdebstrap(1) in the appliance.

    Example::

        <base><mmdebstrap suite="bookworm" variant="minbase" components="main" include="systemd udev"/></base>

    ``mirror`` left out, or empty, is the tool's own default; ``distribution`` (default debian) is the fact that steps
    can test.
    """

    element: ClassVar[str] = "mmdebstrap"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="mmdebstrap">
      <attribute name="suite"><ref name="word"/></attribute>
      <optional><attribute name="variant"><ref name="word"/></attribute></optional>
      <optional><attribute name="components"><ref name="words"/></attribute></optional>
      <optional><attribute name="include"><ref name="words"/></attribute></optional>
      <optional><attribute name="mirror"><ref name="string"/></attribute></optional>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
    </element>"""

    suite: str
    variant: str
    components: tuple[str, ...]
    include: tuple[str, ...]
    mirror: str
    distribution: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(
            element.attributes["suite"],
            element.get("variant") or "minbase",
            element.words("components") or ("main",),
            element.words("include"),
            element.get("mirror") or "",
            element.get("distribution") or "debian",
            element.place,
        )

    def title(self) -> str:
        return f"mmdebstrap {self.suite}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "suite": self.suite,
            "variant": self.variant,
            "components": list(self.components),
            "include": list(self.include),
            "mirror": self.mirror,
            "distribution": self.distribution,
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": self.suite}

    def prepare(self, work: Path, size: int, filesystem: str) -> Path | None:
        return None

    def populate(self, guest: Guest) -> None:
        words = [
            "mmdebstrap",
            "--mode=root",
            "--format=directory",
            f"--variant={self.variant}",
            f"--components={','.join(self.components)}",
            # The filesystem is new; its lost+found would make mmdebstrap think otherwise.
            "--skip=check/empty",
            # The overlay is synced once, when it is sealed.
            "--dpkgopt=force-unsafe-io",
            '--aptopt=Acquire::Languages "none"',
            '--aptopt=Acquire::Retries "3"',
            '--aptopt=APT::Sandbox::User "root"',
            '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"',
            *([f"--include={','.join(self.include)}"] if self.include else []),
            self.suite,
            "/sysroot",
            *([self.mirror] if self.mirror else []),
        ]
        guest.run(Command(shlex.join(words) + "\n", place="appliance"))
        guest.remove("/etc/hostname")  # the appliance's, where it has one
