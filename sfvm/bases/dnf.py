"""``dnf``: a Fedora, a CentOS or one of their kin, installed by the appliance's tools."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from sfvm.bases._installroot import MOUNTED, PLACES, SYNCED, names, repositories, required_keys, server
from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place, SpecError
from sfvm.guest import KEPT, Command, Guest
from sfvm.keys import SCHEMA, Keys
from sfvm.managers.manager import Source
from sfvm.managers.rpm import section
from sfvm.verbs import JSON, Attached, Host

REPOSITORIES = "/etc/yum.repos.d"
OURS = "sfvm.repo"
TRUSTED = "/etc/pki/rpm-gpg/RPM-GPG-KEY-sfvm"
ELDER = {"centos": 10, "rocky": 10, "almalinux": 10, "rhel": 10, "ol": 10, "fedora": 36}
"""Distributions whose rpm has its database in /var/lib/rpm before this release, since then in /usr/lib/sysimage/rpm
(Fedora's change "Relocate RPM database to /usr", 36; Enterprise Linux 10 was made of a later Fedora)."""
OWNED = r"""if [ -x /sysroot/usr/bin/systemd-sysusers ] && [ -x /sysroot/usr/bin/rpm ]; then
    HOME=/root chroot /sysroot /bin/sh -e <<'END'
systemd-sysusers
rpm -qa --qf '[%{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILENAMES}\n]' | grep -v ' root:root ' |
    while read -r mode owner path; do
        [ -e "$path" ] && [ ! -L "$path" ] && [ "$(stat -c %U:%G "$path")" != "$owner" ] || continue
        capabilities=$(getcap "$path" 2>/dev/null) || :
        chown "$owner" "$path" || continue
        chmod "${mode#"${mode%????}"}" "$path"
        [ -z "$capabilities" ] || setcap "${capabilities##* }" "$path"
    done
END
fi
"""
"""A script: the users that packages declare (sysusers.d(5)) exist, and own their files. rpm sees to that since 4.19;
with an older one, which the appliance may have, what belongs to nobody whom it knows belongs to root. chown(2) takes
the set-uid bit and the capabilities, so what is right already is left alone."""
HOME = "/sysroot/run/sfvm"
"""What dnf needs while it runs: in a tmpfs of the command's own mount namespace, which ends with it."""


@dataclass(frozen=True)
class Dnf:
    """A first package set, by dnf(8) in the appliance, of a distribution that has RPMs.

    Example::

        <base><dnf distribution="centos" release="9" url="https://mirror.stream.centos.org"
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
    version: ClassVar[int] = 2
    schema: ClassVar[str] = f"""
    <element name="dnf">{PLACES}
      <optional><attribute name="groups"><ref name="words"/></attribute></optional>
      <optional><attribute name="docs"><ref name="yes-no"/></attribute></optional>{SCHEMA}
    </element>"""

    distribution: str
    release: str
    repositories: tuple[Source, ...]
    mirrored: bool
    include: tuple[str, ...]
    groups: tuple[str, ...]
    docs: bool
    keys: Keys
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        url, mirrored = server(element), bool(element.get("mirror"))
        prefix = "sfvm-" if mirrored else ""  # the guest has others by these names
        base = cls(
            names(element, "distribution")[0],
            names(element, "release")[0],
            # CentOS and Fedora do not sign their indexes; each package is signed.
            repositories(element, url, prefix=prefix, index=False),
            mirrored,
            names(element, "include"),
            names(element, "groups"),
            element.flag("docs", True),
            required_keys(element),
            element.place,
        )
        if not (base.include or base.groups):
            raise SpecError("dnf installs nothing", place=element.place, hint='say include="…" or groups="…"')
        return base

    def title(self) -> str:
        return f"dnf {self.distribution} {self.release}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "distribution": self.distribution,
            "release": self.release,
            "repositories": [[source.name, source.url] for source in self.repositories],
            "include": list(self.include),
            "groups": list(self.groups),
            "docs": self.docs,
            "keys": dict(self.keys.inputs()),
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": self.release}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        keys = self.keys.write(guest)
        guest.run(Command(self._script(keys), place="appliance", packages=True))
        if self.mirrored:
            self._keep_mirror(guest, keys)

    def _script(self, keys: Sequence[str]) -> str:
        words = ["dnf", "-y", f"--config={HOME}/dnf.conf", "--installroot=/sysroot", f"--releasever={self.release}"]
        words += ["install", *(word.replace("=", "-", 1) for word in self.include)]
        words += [f"@{name}" for name in self.groups]
        macros = [f"%_dbpath {_database(self.distribution, self.release)}"]
        # What is mounted there is not the guest's; rpm would give it the owners and modes of the package filesystem.
        macros.append("%_netsharedpath /dev:/proc:/sys")
        return f"""\
{MOUNTED}mkdir -p /sysroot{KEPT}
mount --bind {KEPT} /sysroot{KEPT}
cat >{HOME}/dnf.conf <<'END'
{self._configuration(keys)}END
printf '%s\\n' {shlex.join(macros)} >{HOME}/.rpmmacros
export HOME={HOME} LANG=C.UTF-8
{_alive(keys)}# kernel-install(8) would make an initramfs of what is installed so far.
KERNEL_INSTALL_BYPASS=1 /usr/lib/sfvm/nosync {shlex.join(words)}
{OWNED}{SYNCED}"""

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
        sections = [section(replace(source, url=plain(source.url)), keys) for source in self.repositories]
        return "\n".join([*lines, "", *sections])

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
        own = "\n".join(section(source, [TRUSTED]) for source in self.repositories)
        guest.write(f"{REPOSITORIES}/{OURS}", own.encode())


def _alive(keys: Sequence[str]) -> str:
    """A script: none of *keys* has expired or was revoked. rpm does not look at that."""
    return f"""\
for key in {shlex.join(keys)}; do
    gone=$(gpg --show-keys --with-colons "$key" 2>/dev/null | awk -F: '$1 == "pub" {{ bad = $2 ~ /[er]/ }}
        $1 == "fpr" && bad {{ print $10; bad = 0 }}')
    [ -z "$gone" ] || {{ echo "a key has expired, or was revoked:" $gone >&2; exit 1; }}
done
"""


def _database(distribution: str, release: str) -> str:
    number = re.match(r"\d+", release)
    elder = number is not None and int(number[0]) < ELDER.get(distribution, 0)
    return "/var/lib/rpm" if elder else "/usr/lib/sysimage/rpm"
