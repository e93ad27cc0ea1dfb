"""``zypper``: openSUSE, installed by the appliance's zypper."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.bases._installroot import CACHE, MOUNTED, PLACES, SYNCED, names, repositories, required_keys, server
from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.keys import SCHEMA, Keys
from sfvm.managers.manager import Source
from sfvm.managers.rpm import FINE, KEYS, section
from sfvm.verbs import JSON, Attached, Host

HOME = "/run/sfvm/zypper"
"""Of configuration while zypper runs: the appliance's memory."""
REPOSITORIES = "/etc/zypp/repos.d"
DATABASE = "/usr/lib/sysimage/rpm"
"""Where openSUSE's rpm has its database; Debian's default would be the home directory."""
MACROS = f"%_dbpath {DATABASE}\n%_netsharedpath /dev:/proc:/sys\n"
"""What is mounted there is not the guest's; rpm would give it the owners and modes of the package filesystem."""
PATTERN = "pattern()={}"
"""What openSUSE's packages of patterns provide; ``pattern:NAME`` wants a libsolv that Debian has not."""
TRANSLATED = f"""\
if [ -x /sysroot/usr/bin/rpmdb ]; then
    rpmdb --root /sysroot --exportdb >{HOME}/headers
    find /sysroot{DATABASE} -mindepth 1 -delete
    chroot /sysroot rpmdb --initdb
    chroot /sysroot rpmdb --importdb <{HOME}/headers
fi
"""
"""The appliance's rpm knows sqlite, openSUSE's its own ndb: so the guest's rpm writes its database, in its place, from
the headers (rpmdb(8), ``--exportdb``)."""


@dataclass(frozen=True)
class Zypper:
    """A first package set, by zypper(8) in the appliance, of openSUSE.

    Example::

        <base><zypper distribution="opensuse" release="15.6" url="http://download.opensuse.org"
                      repositories="repo-oss=distribution/leap/15.6/repo/oss" keys="keys/opensuse.asc"
                      include="patterns-base-minimal_base zypper"/></base>

    ``repositories`` are names and their places below ``url``, or below ``mirror`` where that is not empty: another
    server with the same directories. ``include`` names packages (``NAME=VERSION`` pins one), ``patterns`` patterns;
    what they only recommend is left out.

    The metadata of every repository and every package must be signed by one of the keys: files next to the spec
    (``keys``), or ``key-url`` with its ``fingerprint``. The guest's rpm trusts them, too, and the guest goes on with
    these repositories.
    """

    element: ClassVar[str] = "zypper"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = f"""
    <element name="zypper">{PLACES}
      <optional><attribute name="patterns"><ref name="words"/></attribute></optional>{SCHEMA}
    </element>"""

    distribution: str
    release: str
    repositories: tuple[Source, ...]
    include: tuple[str, ...]
    keys: Keys
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        url = server(element)
        base = cls(
            element.attributes["distribution"],
            element.attributes["release"],
            repositories(element, url),
            (*names(element, "include"), *(PATTERN.format(name) for name in names(element, "patterns"))),
            required_keys(element),
            element.place,
        )
        if not base.include:
            raise SpecError("zypper installs nothing", place=element.place, hint='say include="…" or patterns="…"')
        return base

    def title(self) -> str:
        return f"zypper {self.distribution} {self.release}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "distribution": self.distribution,
            "release": self.release,
            "repositories": [[source.name, source.url] for source in self.repositories],
            "include": list(self.include),
            "keys": dict(self.keys.inputs()),
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": self.release}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        files = self.keys.write(guest)
        guest.run(Command(self.script(files), place="appliance", packages=True))
        kept = [f"{KEYS}/{file.rpartition('/')[2]}" for file in files]
        for source in self.repositories:
            guest.write(f"{REPOSITORIES}/{source.name}.repo", _section(source, kept).encode())

    def script(self, files: Sequence[str]) -> str:
        """What runs in the appliance; *files* are the keys."""
        listed, wanted = shlex.join(files), shlex.join(self.include)
        zypper = (
            "/usr/lib/sfvm/nosync zypper --root /sysroot --non-interactive "
            f"--reposd-dir {HOME}/repos.d --cache-dir {CACHE} --pkg-cache-dir {CACHE}/packages"
        )
        sections = "\n".join(_section(source, files, plain(source.url)) for source in self.repositories)
        return "".join(
            [
                f"rm -rf {HOME} {CACHE}\nmkdir -p {HOME}/repos.d {CACHE}\ntrap 'rm -rf {HOME} {CACHE}' EXIT\n",
                f"export HOME={HOME} LANG=C.UTF-8\n",
                f"cat >{HOME}/.rpmmacros <<'END'\n{MACROS}END\n",
                f"cat >{HOME}/repos.d/all.repo <<'END'\n{sections}END\n",
                MOUNTED,
                f"rpm --root /sysroot --import {listed}\n",
                f"{zypper} refresh\n",
                f"{zypper} --no-refresh install --no-recommends --download-in-advance {wanted} || {FINE}\n",
                TRANSLATED,
                f"mkdir -p /sysroot{KEYS}\ninstall -m 644 {listed} /sysroot{KEYS}/\n",
                # It names the machine to the mirrors.
                "rm -f /sysroot/var/lib/zypp/AnonymousUniqueId\n",
                SYNCED,
            ]
        )


def _section(source: Source, files: Sequence[str], url: str = "") -> str:
    """A repository's section; libzypp would else trust packages for what a signed index says of them."""
    source = Source(source.name, url or source.url)
    return section(source, files, "type=rpm-md", "autorefresh=1", "pkg_gpgcheck=1")
