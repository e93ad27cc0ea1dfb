"""What waits in the repositories: newer packages than a guest has, as its own manager tells.

The scripts run in a throw-away copy of the guest, with fresh indexes; what they print is read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from sfvm.managers import apk, apt
from sfvm.managers.manager import Manager

MARK = "=== sfvm: security"
"""Between what is newer and what of it is a security fix."""


@dataclass(frozen=True)
class Waiting:
    """The version *after* of a package that is installed in the version *before*. *security*: the repository says that
    it fixes a vulnerability; where a manager does not tell, none does."""

    name: str
    before: str
    after: str
    security: bool = False


@dataclass(frozen=True)
class _Look:
    script: str
    read: Callable[[str], Iterator[Waiting]]


def script(manager: Manager) -> str:
    """A script of the guest that prints what is newer."""
    return f"export LC_ALL=C\n({manager.refresh}) >&2\n{_LOOKS[manager.name].script}\n"


def read(manager: Manager, output: str) -> tuple[Waiting, ...]:
    """What the script has printed, by name."""
    return tuple(sorted(_LOOKS[manager.name].read(output), key=lambda waiting: (waiting.name, waiting.before)))


def _apt(output: str) -> Iterator[Waiting]:
    """``Inst NAME [OLD] (NEW ORIGIN:RELEASE/SUITE, … [ARCHITECTURE])``. Debian's fixes come from an origin
    Debian-Security, Ubuntu's from a suite NAME-security."""
    form = re.compile(r"Inst (?P<name>\S+) \[(?P<before>\S+)\] \((?P<after>\S+) (?P<origin>[^\[\]]*)")
    for match in form.finditer(output):
        security = "security" in match["origin"].lower()
        yield Waiting(match["name"].partition(":")[0], match["before"], match["after"], security)


def _dnf(output: str) -> Iterator[Waiting]:
    """Lines ``- NAME ARCHITECTURE VERSION`` of what is installed and ``+ …`` of what is newer; then those of
    ``updateinfo``, where the word NAME-VERSION-RELEASE.ARCHITECTURE is a fix: the last one of dnf 4, the one before the
    date of dnf 5 (dnf5-advisory(8)). It fixes the newest version, too, whatever that one is for."""
    packages, _, fixes = output.partition(MARK)
    words = (word.rpartition(".") for word in fixes.split())
    fixed = {(package.rsplit("-", 2)[0], architecture) for package, _, architecture in words}
    lines = [found for line in packages.splitlines() if len(found := line.split()) == 4]
    installed = {(name, architecture): version for sign, name, architecture, version in lines if sign == "-"}
    for sign, name, architecture, version in lines:
        if sign == "+" and (name, architecture) in installed:
            yield Waiting(name, installed[name, architecture], version, (name, architecture) in fixed)


def _zypper(output: str) -> Iterator[Waiting]:
    """The table of ``list-updates``: status, repository, name, installed and new version, architecture."""
    for line in output.splitlines():
        words = [word.strip() for word in line.split("|")]
        if len(words) == 6 and words[0] == "v":
            yield Waiting(words[2], words[3], words[4])


def _apk(output: str) -> Iterator[Waiting]:
    """``apk version -v -l '<'``: ``NAME-VERSION < NEW``."""
    for match in re.finditer(r"^(?P<name>\S+)-(?P<before>[^\s-]+-r[0-9]+)\s+<\s+(?P<after>\S+)", output, re.MULTILINE):
        yield Waiting(match["name"], match["before"], match["after"])


def _pacman(output: str) -> Iterator[Waiting]:
    """``pacman -Qu``: ``NAME OLD -> NEW``."""
    for match in re.finditer(r"^(?P<name>\S+) (?P<before>\S+) -> (?P<after>\S+)", output, re.MULTILINE):
        yield Waiting(match["name"], match["before"], match["after"])


_LOOKS: Mapping[str, _Look] = {
    "apt": _Look(f"{apt.COMMAND} -s dist-upgrade", _apt),
    "dnf": _Look(
        # dnf 4 ends each line once more; the empty ones say nothing.
        'query() { dnf -q repoquery --latest-limit=1 --queryformat="$1 %{name} %{arch} %{evr}\\n" "$2"; }\n'
        f"query - --installed; query + --upgrades; echo '{MARK}'; dnf -q updateinfo list --updates --security",
        _dnf,
    ),
    "zypper": _Look("zypper -n -q list-updates", _zypper),
    "apk": _Look(f"{apk.APK} version -v -l '<'", _apk),
    "pacman": _Look("pacman -Qu || :", _pacman),
}
