"""``zypper``: openSUSE, installed by the appliance's zypper."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm import keys
from sfvm.bases._installroot import CACHE, MOUNTED, SYNCED, names, url
from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.keys import Keys
from sfvm.verbs import JSON

HOME = "/run/sfvm/zypper"
"""Of configuration while zypper runs: the appliance's memory."""
DATABASE = "/usr/lib/sysimage/rpm"
"""Where openSUSE's rpm has its database; Debian's default would be the home directory."""
REPOSITORY = """\
[{name}]
name={name}
enabled=1
autorefresh=1
baseurl={url}
type=rpm-md
gpgcheck=1
repo_gpgcheck=1
pkg_gpgcheck=1
"""
"""In the guest for good: both the metadata and every package must be signed (zypper(8), libzypp's RepoInfo)."""
PROXY = """\
if [ -n "$http_proxy" ]; then
    mkdir -p /etc/sysconfig
    printf '%s\\n' PROXY_ENABLED=yes "HTTP_PROXY='$http_proxy'" "HTTPS_PROXY='$https_proxy'" >/etc/sysconfig/proxy
fi
"""
FINE = 'case $? in 102|103|107) ;; *) exit "$?" ;; esac'
"""A script: to reboot, or to restart zypper, is advice; a failed script of a package is no failure to rpm either
(zypper(8), "EXIT CODES")."""
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
    """Install packages, and what they need, with zypper from rpm-md repositories.

    Example::

        <base>
          <zypper release="tumbleweed" include="patterns-base-minimal_base zypper" keys="keys/opensuse.asc">
            <repository name="repo-oss" url="http://download.opensuse.org/tumbleweed/repo/oss"/>
          </zypper>
        </base>

    ``include`` names packages (``NAME=VERSION`` pins one) and patterns (``pattern:NAME``); what they recommend is left
    out. The metadata of every repository and every package must be signed by ``keys``, or by the key at ``key-url``
    that has the ``fingerprint``; the guest's rpm gets these keys, and the guest the repositories.
    """

    element: ClassVar[str] = "zypper"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = f"""
    <element name="zypper">
      <attribute name="include"><ref name="words"/></attribute>
      <optional><attribute name="release"><ref name="word"/></attribute></optional>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>{keys.SCHEMA}
      <oneOrMore>
        <element name="repository">
          <attribute name="name"><ref name="word"/></attribute>
          <attribute name="url"><ref name="string"/></attribute>
        </element>
      </oneOrMore>
    </element>"""

    repositories: Mapping[str, str]
    include: tuple[str, ...]
    release: str
    distribution: str
    keys: Keys
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        repositories = {names(child, "name")[0]: url(child, "url") for child in element.children}
        signers = Keys.parse(element)
        if not signers:
            raise SpecError(
                "zypper has no keys",
                place=element.place,
                why="packages that nobody has signed are not installed",
                hint='keys="…", or key-url and fingerprint',
            )
        return cls(
            repositories,
            names(element, "include"),
            element.get("release") or "",
            element.get("distribution") or "opensuse",
            signers,
            element.place,
        )

    def title(self) -> str:
        return f"zypper {' '.join(self.repositories)}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "repositories": dict(self.repositories),
            "include": list(self.include),
            "release": self.release,
            "distribution": self.distribution,
            "keys": self.keys.inputs(),
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": self.release}

    def prepare(self, work: Path, size: int, filesystem: str) -> Path | None:
        return None

    def populate(self, guest: Guest) -> None:
        guest.run(Command(self.script(self.keys.write(guest)), place="appliance", packages=True))
        for name, where in self.repositories.items():
            guest.write(f"/etc/zypp/repos.d/{name}.repo", REPOSITORY.format(name=name, url=where).encode())

    def script(self, files: tuple[str, ...]) -> str:
        """What runs in the appliance; *files* are the keys."""
        zypper = (
            "/usr/lib/sfvm/nosync zypper --root /sysroot --non-interactive "
            f"--reposd-dir {HOME}/repos.d --cache-dir {CACHE} --pkg-cache-dir {CACHE}/packages"
        )
        repositories = [REPOSITORY.format(name=name, url=plain(where)) for name, where in self.repositories.items()]
        return "".join(
            [
                f"rm -rf {HOME} {CACHE}\nmkdir -p {HOME}/repos.d {CACHE}\ntrap 'rm -rf {HOME} {CACHE}' EXIT\n",
                f"export HOME={HOME}\n",
                f"echo '%_dbpath {DATABASE}' >{HOME}/.rpmmacros\n",
                f"cat >{HOME}/repos.d/all.repo <<'END'\n{''.join(repositories)}END\n",
                PROXY,
                MOUNTED,
                f"rpm --root /sysroot --import {shlex.join(files)}\n",
                f"{zypper} refresh\n",
                f"{zypper} install --no-recommends --download-in-advance {shlex.join(self.include)} || {FINE}\n",
                TRANSLATED,
                "rm -f /sysroot/var/lib/zypp/AnonymousUniqueId\n",
                SYNCED,
            ]
        )
