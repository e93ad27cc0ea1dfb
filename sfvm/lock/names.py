"""What the names of package files tell: name, version and architecture."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from sfvm.guest import Package

_WORD = r"[A-Za-z0-9_.+~:^@-]+"
_FORMS = (
    # deb(5): NAME_VERSION_ARCHITECTURE.deb
    re.compile(r"(?P<name>[^_]+)_(?P<version>[^_]+)_(?P<arch>[^_.]+)\.(?:u?deb|ddeb)"),
    # rpm: NAME-VERSION-RELEASE.ARCHITECTURE.rpm
    re.compile(r"(?P<name>.+)-(?P<version>[^-]+-[^-]+)\.(?P<arch>[^.-]+)\.rpm"),
    # pacman: NAME-VERSION-RELEASE-ARCHITECTURE.pkg.tar.COMPRESSION
    re.compile(r"(?P<name>.+)-(?P<version>[^-]+-[^-]+)-(?P<arch>[^.-]+)\.pkg\.tar(?:\.[a-z0-9]+)?"),
    # apk: ARCHITECTURE/NAME-VERSION-rRELEASE.apk
    re.compile(r"(?P<name>.+)-(?P<version>[^-]+-r[0-9]+)\.apk"),
)


def package_of(url: str) -> Package | None:
    """The package in the file that *url* names; None when it is no package, or its name does not tell."""
    *directories, name = unquote(urlsplit(url).path).split("/")
    for form in _FORMS:
        if (match := form.fullmatch(name)) is not None:
            found = match.groupdict()
            architecture = found.get("arch") or (directories[-1] if directories else "")
            words = (found["name"], found["version"], architecture)
            return Package(*words) if all(re.fullmatch(_WORD, word) for word in words[:2]) else None
    return None


def complete(package: Package, installed: Iterable[Package]) -> Package:
    """*package* as the guest's database has it among *installed* ones of its name: files' names lack the epoch."""
    for known in installed:
        same = known.architecture in ("", package.architecture)
        if same and known.version.partition(":")[2] == package.version and re.fullmatch(_WORD, known.version):
            return Package(package.name, known.version, package.architecture)
    return package
