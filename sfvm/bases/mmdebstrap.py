"""``mmdebstrap``: a Debian or one of its kin, installed by the appliance's tools."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm import apt
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.verbs import JSON, Attached, Host

NAMES = r"[A-Za-z0-9][A-Za-z0-9.+_:/=~-]*"
"""Of suites, components and packages: none looks like an option or makes two of the lists on a command line."""

MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
"""mmdebstrap's own hooks; they do nothing for suites that have no usr-is-merged."""


@dataclass(frozen=True)
class Mmdebstrap:
    """A first package set, by mmdebstrap(1) in the appliance.

    Example::

        <base><mmdebstrap suite="bookworm" variant="minbase" components="main" include="systemd udev"/></base>

    ``mirror`` left out, or empty, is the tool's own default; ``keyring`` names a file of keys in the appliance that
    sign it, where they are not the distribution's; ``distribution`` (default debian) is the fact that steps can test.
    """

    element: ClassVar[str] = "mmdebstrap"
    version: ClassVar[int] = 3
    schema: ClassVar[str] = """
    <element name="mmdebstrap">
      <attribute name="suite"><ref name="word"/></attribute>
      <optional><attribute name="variant"><choice>
        <value>essential</value><value>apt</value><value>minbase</value><value>buildd</value>
        <value>important</value><value>standard</value>
      </choice></attribute></optional>
      <optional><attribute name="components"><ref name="words"/></attribute></optional>
      <optional><attribute name="include"><ref name="words"/></attribute></optional>
      <optional><attribute name="mirror"><ref name="string"/></attribute></optional>
      <optional><attribute name="keyring"><ref name="path"/></attribute></optional>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
    </element>"""

    suite: str
    variant: str
    components: tuple[str, ...]
    include: tuple[str, ...]
    mirror: str
    keyring: str | None
    distribution: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        components, include = element.words("components") or ("main",), element.words("include")
        for word in (element.attributes["suite"], *components, *include):
            if not re.fullmatch(NAMES, word):
                raise SpecError(
                    f"mmdebstrap: {word!r} is no name of a suite, component or package",
                    place=element.place,
                    hint="names are separated by blanks",
                )
        mirror = element.get("mirror") or ""
        if mirror.startswith("-"):
            raise SpecError(f"mirror {mirror!r} is no URI", place=element.place_of("mirror"), hint="http://HOST/debian")
        return cls(
            element.attributes["suite"],
            element.get("variant") or "minbase",
            components,
            include,
            mirror,
            element.get("keyring"),
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
            "keyring": self.keyring,
            "distribution": self.distribution,
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": self.suite}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        words = [
            "/usr/lib/sfvm/nosync",
            "mmdebstrap",
            "--mode=root",
            "--format=directory",
            f"--variant={self.variant}",
            f"--components={','.join(self.components)}",
            # The filesystem is new; its lost+found would make mmdebstrap think otherwise.
            "--skip=check/empty",
            # As debootstrap does where the suite wants a merged /usr: symlinks first, and the empty package
            # usr-is-merged. Else apt chooses usrmerge, which comes with all of perl and moves every file.
            f"--hook-dir={MERGED_USR}",
            # The overlay is synced once, when it is sealed.
            "--dpkgopt=force-unsafe-io",
            '--aptopt=Acquire::Languages "none"',
            '--aptopt=Acquire::Retries "3"',
            '--aptopt=APT::Sandbox::User "root"',
            f'--aptopt=DPkg::Pre-Install-Pkgs:: "{apt.UNPACKED}"',
            f"--setup-hook={apt.OLD}",
            '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"',
            "--customize-hook=" + apt.keep('"$1"'),
            *([f"--include={','.join(self.include)}"] if self.include else []),
            *([f"--keyring={self.keyring}"] if self.keyring else []),
            self.suite,
            "/sysroot",
            *([self.mirror] if self.mirror else []),
        ]
        guest.run(Command(f"{shlex.join(words)}\nsync --file-system /sysroot\n", place="appliance", packages=True))
        for name in ("/etc/hostname", "/etc/resolv.conf"):  # mmdebstrap copies the appliance's
            guest.remove(name)
