"""apk: Alpine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sfvm.document import Element
from sfvm.errors import SpecError, StepError
from sfvm.managers.manager import Addition, Manager, Source, in_the_open

REPOSITORIES = "/etc/apk/repositories"
OURS = "/run/sfvm/repositories"
APK = f"apk --repositories-file {OURS}"
COPIED = in_the_open(REPOSITORIES, "/run/sfvm")


def _add(source: Source, keys: Sequence[str]) -> Addition:
    """apk finds a key by the name of its file, which the signature tells (apk-keys(5))."""
    if not source.index:
        raise StepError(
            "apk trusts no repository without a signed index",
            why="its packages are known by what the index says of them",
            hint='leave out signed="packages"',
        )
    if not source.rsa:
        raise StepError(
            f"repository {source.name} has no key that apk knows",
            why="it checks signatures of RSA keys",
            hint='say rsa-keys="NAME.rsa.pub"',
        )
    files = {f"/etc/apk/keys/{name}": content for name, content in source.rsa.items()}
    url = shlex.quote(source.url)
    return Addition(files, f"grep -qsxF {url} {REPOSITORIES} || echo {url} >>{REPOSITORIES}\n")


def _hold(names: Sequence[str]) -> str:
    """Into /etc/apk/world, with the version that is installed."""
    lines = [f"version=$(apk info -ve {name})\n{APK} add {name}=${{version#{name}-}}" for name in names]
    return "\n".join([COPIED, *lines])


def _unhold(names: Sequence[str]) -> str:
    return "\n".join([COPIED, *(f"! apk info -e {name} || {APK} add {name}" for name in names)])


MANAGER = Manager(
    "apk",
    "/sbin/apk",
    f"{COPIED}\n{APK} update",
    f"{APK} add {{}}",
    "apk del {}",
    f"{APK} upgrade",
    "rm -rf /var/cache/apk/*",
    hold=_hold,
    unhold=_unhold,
    add=_add,
)


def rsa_keys(element: Element) -> dict[str, str]:
    """The files of the attribute ``rsa-keys`` by name.

    :raises SpecError: one is no RSA key (PEM: RFC 7468)
    """
    found = {}
    for file in element.files("rsa-keys"):
        content = file.read_text(encoding="ascii", errors="replace") if file.is_file() else ""
        if not content.startswith("-----BEGIN PUBLIC KEY-----\n"):
            raise SpecError(
                f"{file.name} is no RSA key in PEM form", place=element.place_of("rsa-keys"), hint="see apk-keys(5)"
            )
        found[file.name] = content
    return found
