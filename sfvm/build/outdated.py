"""Which built nodes have newer packages waiting, as their own package managers tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set

from sfvm import managers
from sfvm.build.visit import opened
from sfvm.config import Settings
from sfvm.errors import StepError
from sfvm.events import Listener
from sfvm.guest import Command, CommandFailed
from sfvm.managers import waiting
from sfvm.managers.waiting import Waiting
from sfvm.repository import Manifest, Repository


def look(manifest: Manifest, repository: Repository, settings: Settings, listener: Listener) -> tuple[Waiting, ...]:
    """What is newer than the packages of a built node. One appliance is started; what happens there is not kept.

    :raises StepError: its package manager cannot say
    :raises SfvmError: no such node any more, or the appliance cannot be started
    """
    with repository.lease([manifest.key]):
        backing = repository.backing(manifest.key)
        with opened(backing, manifest.name, manifest.facts, repository, settings, listener) as appliance:
            manager = managers.find(appliance.guest)
            try:
                output = appliance.guest.capture(Command(waiting.script(manager), packages=True))
            except CommandFailed as error:
                raise StepError(
                    f"{manager.name} does not tell what is newer",
                    node=manifest.name,
                    why=f"exit status {error.status}",
                    detail=error.output,
                ) from error
            return waiting.read(manager, output)


def tops(manifests: Iterable[Manifest]) -> tuple[Manifest, ...]:
    """Those of *manifests* that have packages and are no ancestor of another one: to look there is enough."""
    found = {manifest.key: manifest for manifest in manifests if manifest.packages}
    parents = {manifest.parent for manifest in found.values()}
    return tuple(manifest for key, manifest in found.items() if key not in parents)


def spread(chain: Sequence[Manifest], told: Sequence[Waiting]) -> Mapping[str, tuple[Waiting, ...]]:
    """For each key of *chain*, root first, what waits there, when the last one was *told* this: what is newer than its
    own packages. Where a descendant has a version of a package that an ancestor has not, it is the newer one; both may
    have several, of kernels for example."""
    newest = {waiting.name: waiting for waiting in told}
    last = _versions(chain[-1])
    found: dict[str, tuple[Waiting, ...]] = {}
    for manifest in chain:
        waits: list[Waiting] = []
        for name, versions in _versions(manifest).items():
            newer, added = newest.get(name), last.get(name, versions) - versions
            if newer is not None and newer.before in versions:
                waits.append(newer)
            elif added:
                after, security = (newer.after, newer.security) if newer else (max(added), False)
                waits.append(Waiting(name, max(versions), after, security))
        found[manifest.key] = tuple(waits)
    return found


def _versions(manifest: Manifest) -> Mapping[str, Set[str]]:
    found: dict[str, set[str]] = {}
    for name, version, _ in manifest.packages:
        found.setdefault(name, set()).add(version)
    return found
