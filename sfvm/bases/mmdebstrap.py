"""``mmdebstrap``: a Debian or one of its kin, installed by the appliance's tools."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm import apt
from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place, SpecError
from sfvm.guest import KEPT, Command, Guest
from sfvm.keys import SCHEMA, Keys
from sfvm.managers import Source
from sfvm.managers.apt import KEYRINGS, SOURCES, stanza
from sfvm.managers.manager import placed
from sfvm.verbs import JSON, Attached, Host

NAMES = r"[A-Za-z0-9][A-Za-z0-9.+_:/=~-]*"
"""Of suites, components and packages: none looks like an option or makes two of the lists on a command line."""
HTTPS = r"https://[A-Za-z0-9.-]+(:443)?(/|$)"
"""How a mirror begins that can be told otherwise for a while: nothing for a shell or sed in it."""
MERGED_USR = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
"""mmdebstrap's own hooks; they do nothing for suites that have no usr-is-merged."""


@dataclass(frozen=True)
class Mmdebstrap:
    """A first package set, by mmdebstrap(1) in the appliance.

    Example::

        <base><mmdebstrap suite="bookworm" variant="minbase" components="main" include="systemd udev"/></base>

    ``mirror`` left out, or empty, is the tool's own default; ``pockets="updates security"`` adds the suites of these
    names that it has (``noble-updates``). Where its keys are not those of the appliance's own distribution, ``keys``
    are files beside the spec, or the key at ``key-url`` has the ``fingerprint``: they, and a source that is signed by
    them, stay in the guest. ``keyring`` names a file of keys in the appliance instead. ``distribution`` (default
    debian) is the fact that steps can test.
    """

    element: ClassVar[str] = "mmdebstrap"
    version: ClassVar[int] = 4
    schema: ClassVar[str] = f"""
    <element name="mmdebstrap">
      <attribute name="suite"><ref name="word"/></attribute>
      <optional><attribute name="variant"><choice>
        <value>essential</value><value>apt</value><value>minbase</value><value>buildd</value>
        <value>important</value><value>standard</value>
      </choice></attribute></optional>
      <optional><attribute name="components"><ref name="words"/></attribute></optional>
      <optional><attribute name="include"><ref name="words"/></attribute></optional>
      <optional><attribute name="mirror"><ref name="string"/></attribute></optional>
      <optional><attribute name="pockets"><ref name="words"/></attribute></optional>
      <optional><attribute name="keyring"><ref name="path"/></attribute></optional>{SCHEMA}
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
    </element>"""

    suite: str
    variant: str
    components: tuple[str, ...]
    include: tuple[str, ...]
    mirror: str
    pockets: tuple[str, ...]
    keyring: str | None
    keys: Keys
    distribution: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        components, include = element.words("components") or ("main",), element.words("include")
        distribution = element.get("distribution") or "debian"
        for word in (element.attributes["suite"], *components, *include, *element.words("pockets"), distribution):
            if not re.fullmatch(NAMES, word):
                raise SpecError(
                    f"mmdebstrap: {word!r} is no name of a suite, component, package or distribution",
                    place=element.place,
                    hint="names are separated by blanks",
                )
        mirror = element.get("mirror") or ""
        if mirror.startswith("-") or re.search(r"[\s\[\]]", mirror):  # a line with options, such as [trusted=yes]
            raise SpecError(f"mirror {mirror!r} is no URI", place=element.place_of("mirror"), hint="http://HOST/debian")
        keys = Keys.parse(element)
        if not mirror and (keys or element.words("pockets")):
            raise SpecError(
                "keys and pockets are those of a mirror", place=element.place, hint='say mirror="http://HOST/debian"'
            )
        return cls(
            element.attributes["suite"],
            element.get("variant") or "minbase",
            components,
            include,
            mirror,
            element.words("pockets"),
            element.get("keyring"),
            keys,
            distribution,
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
            "pockets": list(self.pockets),
            "keyring": self.keyring,
            "keys": self.keys.inputs(),
            "distribution": self.distribution,
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": self.suite}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        prepare, hooks, sources = "", list[str](), self._lines()
        if self.keys:
            prepare, hooks, sources = self._signed(self.keys.write(guest))
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
            *hooks,
            *self._told_again(),
            "--customize-hook=" + apt.keep('"$1"'),
            *([f"--include={','.join(self.include)}"] if self.include else []),
            *([f"--keyring={self.keyring}"] if self.keyring else []),
            self.suite,
            "/sysroot",
            *sources,
        ]
        script = f"{prepare}{shlex.join(words)}\nsync --file-system /sysroot\n"
        guest.run(Command(script, place="appliance", packages=True))
        for name in ("/etc/hostname", "/etc/resolv.conf"):  # mmdebstrap copies the appliance's
            guest.remove(name)

    @property
    def _open(self) -> str:
        """The mirror, as what is fetched from it passes the proxy in the open."""
        return plain(self.mirror) if re.match(HTTPS, self.mirror) else self.mirror

    def _told_again(self) -> list[str]:
        """Hooks: the guest's apt has the mirror as the spec says it."""
        if self._open == self.mirror:
            return []
        host = self.mirror.split("/")[2].removesuffix(":443")
        files = r"""find "$1/etc/apt" -type f \( -name '*.list' -o -name '*.sources' \)"""
        return [f"--customize-hook={files} -exec sed -i 's,http://{host}:443,https://{host},' {{}} +"]

    def _lines(self) -> list[str]:
        """What mmdebstrap is told of the mirror, which is signed by the keys that it has."""
        if not self.pockets:
            return [self._open] if self.mirror else []
        return [f"deb {self._open} {suite} {' '.join(self.components)}" for suite in self._suites()]

    def _suites(self) -> list[str]:
        return [self.suite, *(f"{self.suite}-{pocket}" for pocket in self.pockets)]

    def _signed(self, keys: Sequence[str]) -> tuple[str, list[str], list[str]]:
        """The same for a source of our own: a script to run before, hooks, and the file. The source is the same one
        for apt outside and inside, so the keys have one path in both."""
        paths, prepare = placed(Source(self.distribution, self.mirror), keys, KEYRINGS)
        file = f"{KEPT}/{self.distribution}.sources"
        content = stanza(self._open, self._suites(), self.components, paths)
        prepare += f"cat >{file} <<'END'\n{content}END\n"
        there = f'"$1{SOURCES}"'
        hooks = [
            f'--setup-hook=mkdir -p "$1{KEYRINGS}" && cp {" ".join(paths)} "$1{KEYRINGS}/"',
            f"--customize-hook=mv {there}/0000{self.distribution}.sources {there}/{self.distribution}.sources",
        ]
        return prepare, hooks, [file]
