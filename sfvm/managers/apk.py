"""apk: Alpine."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sfvm.errors import StepError
from sfvm.managers.manager import Addition, Manager, Source

REPOSITORIES = "/etc/apk/repositories"


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
    return "\n".join(f"version=$(apk info -ve {name})\napk add {name}=${{version#{name}-}}" for name in names)


MANAGER = Manager(
    "apk",
    "/sbin/apk",
    "apk update",
    "apk add {}",
    "apk del {}",
    "apk upgrade",
    "rm -rf /var/cache/apk/*",
    hold=_hold,
    unhold=lambda names: "\n".join(f"! apk info -e {name} || apk add {name}" for name in names),
    add=_add,
)
