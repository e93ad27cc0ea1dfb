"""Looking into a node: a shell or a command on a throw-away overlay of it, with the network that the user allows."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sfvm import qcow2
from sfvm.appliance import image as appliance_image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.appliance.profile import baseline
from sfvm.config import Settings
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.errors import UsageError
from sfvm.events import Listener, Output
from sfvm.repository import Repository
from sfvm.repository.files import temporary


def visit(key: str, repository: Repository, settings: Settings, listener: Listener, command: str | None = None) -> int:
    """Open a terminal in the built node with *key*, or run *command* there; nothing that happens is kept. Return the
    exit status.

    :raises SfvmError: no such node, or the appliance cannot be started
    """
    manifest = repository.manifest(key)
    with repository.lease([key]):
        backing = repository.backing(key)
        return _enter(backing, manifest.name, manifest.facts, repository, settings, listener, command)


def visit_failed(
    key: str,
    name: str,
    facts: Mapping[str, str],
    repository: Repository,
    settings: Settings,
    listener: Listener,
    command: str | None = None,
) -> int:
    """The same in the state that a failed step of the node *name* with *key* left behind; *facts* are used where the
    journal has none.

    :raises UsageError: no step of it has failed
    """
    with repository.lock(key, lambda holder: None):
        work = repository.work(key, name)
        if work.failed is None:
            raise UsageError(
                f"no failed build of {name} is kept",
                why="it was built since, its spec has changed, or it never failed",
                hint=f"sfvm build {name}",
            )
        return _enter(work.failed, name, work.facts or facts, repository, settings, listener, command)


def _enter(
    backing: Path,
    name: str,
    facts: Mapping[str, str],
    repository: Repository,
    settings: Settings,
    listener: Listener,
    command: str | None,
) -> int:
    with opened(backing, name, facts, repository, settings, listener) as appliance:
        return appliance.interactive(command)


@contextmanager
def opened(
    backing: Path,
    name: str,
    facts: Mapping[str, str],
    repository: Repository,
    settings: Settings,
    listener: Listener,
) -> Iterator[Appliance]:
    """An appliance with a throw-away overlay over *backing*, the state of a guest called *name*, mounted."""
    image = appliance_image.ensure(settings.cache, listener)
    with tempfile.TemporaryDirectory(dir=repository.temporary(), prefix="visit-") as directory:
        overlay = Path(directory) / "overlay.qcow2"
        qcow2.create(overlay, backing=backing)
        with launch(
            image,
            [Drive(overlay)],
            Shape(settings.memory, settings.cpus_each(), baseline=baseline(facts)),
            settings,
            log=lambda line: listener(Output(name, line)),
            listener=listener,
            node=name,
        ) as appliance:
            appliance.mount()
            transfers = Transfers(Store(repository.downloads))
            exchange = temporary(repository.temporary(), "exchange")
            appliance.supplied(Access(transfers, Policy.of(settings)), exchange, listener)
            try:
                yield appliance
            finally:
                transfers.close()
