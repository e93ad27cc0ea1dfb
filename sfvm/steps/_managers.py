"""Package managers of guests, found by looking: the one place that knows their commands."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sfvm import apt
from sfvm.errors import StepError
from sfvm.guest import Guest

APT = (
    "apt-get -q -y -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confdef "
    "-o Dpkg::Options::=--force-confold -o Acquire::Languages=none -o Acquire::Retries=3 -o Acquire::PDiffs=false "
    f"-o Dir::State::lists={apt.LISTS} -o Dir::Cache::pkgcache={apt.HOME}/pkgcache.bin "
    f"-o Dir::Cache::srcpkgcache={apt.HOME}/srcpkgcache.bin -o DPkg::Pre-Install-Pkgs::={shlex.quote(apt.UNPACKED)}"
)


@dataclass(frozen=True)
class Manager:
    """A package manager: *program* shows that a guest has it; the scripts take quoted names for ``{}``."""

    program: str
    refresh: str
    install: str
    remove: str
    upgrade: str
    clean: str
    recommends: str = ""
    """What the install script gets in place of ``{recommends}`` when recommended packages are wanted."""
    plain: str = ""
    """The same when they are not."""


MANAGERS = (
    Manager(
        "/usr/bin/apt-get",
        apt.refresh(f"{APT} update"),
        f"{APT} {{recommends}} install {{}}",
        f"{APT} --auto-remove purge {{}}",
        f"{APT} {{recommends}} dist-upgrade",
        "apt-get clean; rm -rf /var/lib/apt/lists/*_* /var/cache/apt/*.bin",
        recommends="--install-recommends",
        plain="--no-install-recommends",
    ),
    Manager(
        "/usr/bin/dnf",
        ":",
        "dnf -y --setopt=install_weak_deps={recommends} install {}",
        "dnf -y remove {}",
        "dnf -y upgrade",
        "dnf clean all",
        recommends="True",
        plain="False",
    ),
    Manager(
        "/usr/bin/zypper",
        "zypper -n refresh",
        "zypper -n install {recommends} {}",
        "zypper -n remove --clean-deps {}",
        "zypper -n update",
        "zypper clean --all",
        recommends="--recommends",
        plain="--no-recommends",
    ),
    Manager("/sbin/apk", "apk update", "apk add {}", "apk del {}", "apk upgrade", "rm -rf /var/cache/apk/*"),
    Manager(
        "/usr/bin/pacman",
        "pacman -Sy --noconfirm",
        "pacman -S --noconfirm --needed {}",
        "pacman -Rns --noconfirm {}",
        "pacman -Su --noconfirm",
        "rm -rf /var/cache/pacman/pkg/*",
    ),
)


def find(guest: Guest) -> Manager:
    """The guest's package manager.

    :raises StepError: it has none that we know
    """
    for manager in MANAGERS:
        if guest.exists(manager.program):
            return manager
    raise StepError(
        "the guest has no package manager",
        why="none of " + ", ".join(manager.program for manager in MANAGERS) + " is there",
        hint="begin with a base that has one, or copy what you need",
    )


def script(manager: Manager, install: Sequence[str], remove: Sequence[str], *, upgrade: bool, recommends: bool) -> str:
    """The commands for one ``packages`` step."""
    weak = manager.recommends if recommends else manager.plain
    lines = []
    if install or upgrade:
        lines.append(manager.refresh)
    if upgrade:
        lines.append(manager.upgrade.replace("{recommends}", weak))
    if install:
        lines.append(manager.install.replace("{recommends}", weak).replace("{}", shlex.join(install)))
    if remove:
        lines.append(manager.remove.replace("{}", shlex.join(remove)))
    return "\n".join([*lines, manager.clean]) + "\n"
