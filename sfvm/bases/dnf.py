"""``dnf``: a Fedora, a CentOS or one of their kin, installed by the appliance's tools."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place, SpecError
from sfvm.guest import KEPT, Command, Guest
from sfvm.keys import SCHEMA, Keys
from sfvm.managers.manager import Source
from sfvm.managers.rpm import section
from sfvm.verbs import JSON

NAMES = r"[A-Za-z0-9][A-Za-z0-9.+_:~^-]*"
"""Of packages, groups, releases and repositories: none looks like an option."""
REPOSITORIES = "/etc/yum.repos.d"
OURS = "sfvm.repo"
TRUSTED = "/etc/pki/rpm-gpg/RPM-GPG-KEY-sfvm"
ELDER = {"centos": 10, "rocky": 10, "almalinux": 10, "rhel": 10, "ol": 10, "fedora": 36}
"""Distributions whose rpm has its database in /var/lib/rpm before this release, since then in /usr/lib/sysimage/rpm
(Fedora's change "Relocate RPM database to /usr", 36; Enterprise Linux 10 was made of a later Fedora)."""
HOME = "/sysroot/run/sfvm"
"""What dnf needs while it runs: in a tmpfs of the command's own mount namespace, which ends with it."""


@dataclass(frozen=True)
class Dnf:
    """A first package set, by dnf(8) in the appliance, of a distribution that has RPMs.

    Example::

        <base><dnf distribution="centos" release="9" url="https://mirror.stream.centos.org" mirror="${mirror}"
                   repositories="baseos=9-stream/BaseOS/$basearch/os appstream=9-stream/AppStream/$basearch/os"
                   keys="keys/centos.asc" include="bash dnf" groups="core"/></base>

    ``repositories`` are names and their places below ``url``, or below ``mirror`` where that is not empty: another
    server with the same directories. ``$basearch`` and ``$releasever`` are dnf's. Every package must be signed by one
    of the keys: files next to the spec (``keys``), or ``key-url`` with its ``fingerprint``. The guest's rpm trusts
    them, too. The repositories of the guest are those that its own packages bring; with a ``mirror`` these are
    disabled, and ``/etc/yum.repos.d/sfvm.repo`` names it.

    Weak dependencies are not installed; ``docs="no"`` leaves documentation out. No initramfs is made: that is
    the spec's last step.
    """

    element: ClassVar[str] = "dnf"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = f"""
    <element name="dnf">
      <attribute name="distribution"><ref name="word"/></attribute>
      <attribute name="release"><ref name="word"/></attribute>
      <attribute name="url"><ref name="string"/></attribute>
      <optional><attribute name="mirror"><ref name="string"/></attribute></optional>
      <attribute name="repositories"><ref name="words"/></attribute>
      <optional><attribute name="include"><ref name="words"/></attribute></optional>
      <optional><attribute name="groups"><ref name="words"/></attribute></optional>
      <optional><attribute name="docs"><ref name="yes-no"/></attribute></optional>{SCHEMA}
    </element>"""

    distribution: str
    release: str
    url: str
    mirror: str
    repositories: tuple[tuple[str, str], ...]
    include: tuple[str, ...]
    groups: tuple[str, ...]
    docs: bool
    keys: Keys
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        url, mirror = element.attributes["url"], element.get("mirror") or ""
        for name, value in (("url", url), ("mirror", mirror)):
            if value and not re.fullmatch(r"https?://[^\s?#]+", value):
                raise SpecError(
                    f"{name} {value!r} is not http or https", place=element.place_of(name), hint="http://HOST/centos"
                )
        base = cls(
            element.attributes["distribution"],
            element.attributes["release"],
            url,
            mirror,
            tuple(_repository(element, word) for word in element.words("repositories")),
            element.words("include"),
            element.words("groups"),
            element.flag("docs", True),
            Keys.parse(element),
            element.place,
        )
        for name in (base.distribution, base.release, *base.include, *base.groups):
            if not re.fullmatch(NAMES, name):
                raise SpecError(
                    f"dnf: {name!r} is no name of a package, group or release",
                    place=element.place,
                    hint="names are separated by blanks; groups have no @",
                )
        if not (base.include or base.groups):
            raise SpecError("dnf installs nothing", place=element.place, hint='say include="…" or groups="…"')
        if not base.keys:
            raise SpecError(
                "dnf has no keys",
                place=element.place,
                why="the signatures of packages are always checked",
                hint="name the files of the distribution's keys, keys=\"keys/centos.asc\", or a mirror's fingerprint",
            )
        return base

    def title(self) -> str:
        return f"dnf {self.distribution} {self.release}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "distribution": self.distribution,
            "release": self.release,
            "url": self.mirror or self.url,
            "mirror": bool(self.mirror),
            "repositories": [list(pair) for pair in self.repositories],
            "include": list(self.include),
            "groups": list(self.groups),
            "docs": self.docs,
            "keys": dict(self.keys.inputs()),
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": self.release}

    def prepare(self, work: Path, size: int, filesystem: str) -> Path | None:
        return None

    def populate(self, guest: Guest) -> None:
        keys = self.keys.write(guest)
        guest.run(Command(self._script(keys), place="appliance", packages=True))
        if self.mirror:
            self._keep_mirror(guest, keys)

    def _script(self, keys: Sequence[str]) -> str:
        words = ["dnf", "-y", f"--config={HOME}/dnf.conf", "--installroot=/sysroot", f"--releasever={self.release}"]
        words += ["install", *self.include, *(f"@{name}" for name in self.groups)]
        macros = [f"%_dbpath {_database(self.distribution, self.release)}"]
        # What is mounted there is not the guest's; rpm would give it the owners and modes of the package filesystem.
        macros.append("%_netsharedpath /dev:/proc:/sys")
        return f"""\
mkdir -p /sysroot/dev /sysroot/proc /sysroot/run /sysroot/sys
mount -t proc proc /sysroot/proc
mount -t sysfs -o ro sysfs /sysroot/sys
mount --rbind /dev /sysroot/dev
mount -t tmpfs -o mode=755 tmpfs /sysroot/run
mkdir -p /sysroot{KEPT}
mount --bind {KEPT} /sysroot{KEPT}
cat >{HOME}/dnf.conf <<'END'
{self._configuration(keys)}END
printf '%s\\n' {shlex.join(macros)} >{HOME}/.rpmmacros
# kernel-install(8) would make an initramfs of what is installed so far.
HOME={HOME} LANG=C.UTF-8 KERNEL_INSTALL_BYPASS=1 /usr/lib/sfvm/nosync {shlex.join(words)}
sync --file-system /sysroot
"""

    def _configuration(self, keys: Sequence[str]) -> str:
        """dnf.conf(5). Paths that dnf writes to are below the installroot, where the tmpfs is."""
        platform = "f" if self.distribution == "fedora" else "el"
        lines = [
            "[main]",
            "gpgcheck=1",
            "best=1",
            "strict=1",
            "skip_if_unavailable=0",
            "install_weak_deps=0",
            f"tsflags={'' if self.docs else 'nodocs'}",
            "plugins=0",
            "reposdir=/nowhere",
            f"cachedir={KEPT}/dnf",
            "logdir=/run/sfvm/log",
            f"module_platform_id=platform:{platform}{self.release.partition('.')[0]}",
        ]
        return "\n".join([*lines, "", ""]) + self._sources(plain(self.mirror or self.url), keys)

    def _sources(self, url: str, keys: Sequence[str]) -> str:
        """The repositories below *url*. CentOS and Fedora do not sign their indexes; each package is signed."""
        prefix = "sfvm-" if self.mirror else ""  # the guest has others by these names
        below = [(f"{prefix}{name}", f"{url.rstrip('/')}/{path}") for name, path in self.repositories]
        sources = (Source(name, where, index=False) for name, where in below)
        return "\n".join(section(source, keys) for source in sources)

    def _keep_mirror(self, guest: Guest, keys: Sequence[str]) -> None:
        """The guest goes on with the mirror alone."""
        for name in guest.names(REPOSITORIES):
            if name.endswith(".repo"):
                path = f"{REPOSITORIES}/{name}"
                text = guest.read(path).decode("utf-8", errors="surrogateescape")
                text = re.sub(r"^enabled\s*=.*$", "enabled=0", text, flags=re.MULTILINE)
                guest.write(path, text.encode("utf-8", errors="surrogateescape"))
        script = f"cat {' '.join(keys)}\n"
        told = guest.capture(Command(script, place="appliance", packages=True, network=False))
        guest.write(TRUSTED, told.encode())
        guest.write(f"{REPOSITORIES}/{OURS}", self._sources(self.mirror, [TRUSTED]).encode())


def _repository(element: Element, word: str) -> tuple[str, str]:
    name, equals, path = word.partition("=")
    if not equals or not re.fullmatch(NAMES, name) or not re.fullmatch(r"[^/][^?#]*", path):
        raise SpecError(
            f"dnf: repository {word!r} is not NAME=PATH",
            place=element.place_of("repositories"),
            hint="for example baseos=9-stream/BaseOS/$basearch/os, a place below the url",
        )
    return name, path


def _database(distribution: str, release: str) -> str:
    number = re.match(r"\d+", release)
    elder = number is not None and int(number[0]) < ELDER.get(distribution, 0)
    return "/var/lib/rpm" if elder else "/usr/lib/sysimage/rpm"
