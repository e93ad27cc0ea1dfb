"""dnf and zypper: what manages RPMs. Both read repositories from files of one form (dnf.conf(5), zypper(8))."""

from __future__ import annotations

from collections.abc import Sequence

from sfvm.guest import KEPT
from sfvm.managers.manager import OPEN, Addition, Manager, Source, in_the_open, literal, placed

KEYS = "/etc/pki/rpm-gpg"
HELD = "/etc/dnf/dnf.conf"
OURS = "/run/sfvm/repos"
BASEURLS = f"/^[[:space:]]*(metalink|mirrorlist)/!{OPEN}"
"""An index of mirrors leads to https again: such a repository goes through a tunnel, which cannot be locked."""
CERTIFIED = """grep -q '^[[:space:]]*sslclient' "$file\""""
"""Whether a client's certificate is wanted."""
DNF_FILES = "/etc/yum.repos.d/*.repo /etc/yum/repos.d/*.repo /etc/distro.repos.d/*.repo"
"""dnf.conf(5), ``reposdir``."""

FINE = 'case $? in 102|103|107) ;; *) exit "$?" ;; esac'
"""What follows ``zypper … ||``: to reboot, or to restart zypper, is advice; and a failed script of a package is no
failure to rpm either (zypper(8), "EXIT CODES")."""
NOT_THERE = FINE.replace("102|", "102|104|")
"""The same where a package that is not there is what was wanted, as for other managers."""


def section(source: Source, keys: Sequence[str], *more: str) -> str:
    """A repository's section; *keys* are paths. Signatures of packages are always checked, those of the index unless
    the source says that it has none; zypper checks the packages where the index is not signed."""
    lines = [
        f"[{source.name}]",
        f"name={source.name}",
        f"baseurl={source.url}",
        "enabled=1",
        "gpgcheck=1",
        f"repo_gpgcheck={int(source.index)}",
        "gpgkey=" + " ".join(f"file://{key}" for key in keys),
        *more,
    ]
    return "\n".join(lines) + "\n"


def _dnf_add(source: Source, keys: Sequence[str]) -> Addition:
    paths, script = placed(source, keys, KEYS)
    return Addition({f"/etc/yum.repos.d/{source.name}.repo": section(source, paths)}, script)


def _zypper_add(source: Source, keys: Sequence[str]) -> Addition:
    paths, script = placed(source, keys, KEYS)
    content = section(source, paths, "type=rpm-md", "autorefresh=1")
    # Run without questions, zypper takes no key that rpm does not know.
    return Addition({f"/etc/zypp/repos.d/{source.name}.repo": content}, f"{script}rpm --import {' '.join(paths)}\n")


def _dnf_hold(names: Sequence[str]) -> str:
    """Into the one line ``excludepkgs`` of the configuration: the plugin versionlock is not in every guest."""
    return (
        f"grep -qs '^\\[main\\]' {HELD} || echo '[main]' >>{HELD}\n"
        f"grep -q '^excludepkgs=' {HELD} || sed -i '/^\\[main\\]/a excludepkgs=' {HELD}\n"
        f"sed -i '/^excludepkgs=/s/$/ {' '.join(names)}/' {HELD}"
    )


def _dnf_unhold(names: Sequence[str]) -> str:
    lines = [f"s/ {literal(name)}( |$)/\\1/g" for name in names]
    return f"[ ! -e {HELD} ] || sed -E -i '/^excludepkgs=/{{{';'.join(lines)}}}' {HELD}"


_DNF = f"dnf -y --setopt=cachedir={KEPT}/dnf"
"""Indexes are kept outside of the guest, for all steps of one appliance."""
_OPEN_DNF = f"{_DNF} --setopt=reposdir={OURS} --setopt=install_weak_deps={{recommends}}"
_ZYPPER = f"zypper --reposd-dir {OURS} -n"
DNF = Manager(
    "dnf",
    "/usr/bin/dnf",
    in_the_open(DNF_FILES, OURS, BASEURLS, CERTIFIED),
    f"{_OPEN_DNF} install {{}}",
    f"{_DNF} remove {{}}",
    f"{_OPEN_DNF} upgrade",
    "rm -rf /var/cache/dnf/* /var/cache/libdnf5/*",
    hold=_dnf_hold,
    unhold=_dnf_unhold,
    add=_dnf_add,
    group="@{}",
    version="{name}-{version}",
    recommends="True",
    plain="False",
)
ZYPPER = Manager(
    "zypper",
    "/usr/bin/zypper",
    in_the_open("/etc/zypp/repos.d/*.repo", OURS, BASEURLS, CERTIFIED) + f"\n{_ZYPPER} refresh",
    f"{_ZYPPER} install --oldpackage {{recommends}} {{}} || {FINE}",
    f"zypper -n remove --clean-deps {{}} || {NOT_THERE}",
    # Tumbleweed goes from one snapshot to the next by dup alone.
    "command=update\n"
    """if grep -qs '^ID="opensuse-tumbleweed"' /etc/os-release; then command=dup; fi\n"""
    f"{_ZYPPER} $command {{recommends}} || {FINE}",
    # What names the machine to the mirrors is not for two of them.
    "zypper clean --all; rm -f /var/lib/zypp/AnonymousUniqueId",
    hold=lambda names: f"zypper -n addlock {' '.join(names)}",
    unhold=lambda names: f"zypper -n removelock {' '.join(names)}",
    add=_zypper_add,
    group="pattern:{}",
    recommends="--recommends",
    plain="--no-recommends",
)
