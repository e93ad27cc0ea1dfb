"""Seals the nodes of a chain, one after the other, in a thread of its own: the chain's appliance goes on meanwhile.

A node is published after its parent, because the order is that of the chain. Until it is published, its lock is held.
Killed at any instant, what was finished is in the journals: the next build seals it without an appliance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm import qcow2
from sfvm.cancellation import Cancellation
from sfvm.downloads.fetched import Fetched
from sfvm.errors import SfvmError
from sfvm.events import Listener, NodeSealed, phase
from sfvm.repository import Manifest, Repository, StepRecord, Work
from sfvm.spec.render import to_xml
from sfvm.tree import Node


@dataclass(frozen=True)
class Finished:
    """A *node* whose steps are all done. Its content is in the frozen overlay *tip*, and that of its parent in *below*,
    a file of the same chain (None for a root). *told* is what its manifest needs besides, JSON-able: ``origin`` (see
    :class:`sfvm.repository.Manifest`), ``packages``, what was ``fetched``, the ``seconds`` of each step, those
    ``spent`` on all, and ``provenance``. *recorded*: the journal knows all that."""

    node: Node
    work: Work
    tip: Path
    below: Path | None
    told: dict[str, Any]
    recorded: bool = False


class Sealer:
    """Of one chain. *sealed* is told each key that is in the repository; *failed* is called, once, when a node cannot
    be sealed: nothing that is done on top of it is of use then."""

    def __init__(
        self,
        repository: Repository,
        listener: Listener,
        stop: Cancellation,
        *,
        sealed: Callable[[str], None],
        failed: Callable[[], None],
    ) -> None:
        self.repository = repository
        self.listener = listener
        self.stop = stop
        self.sealed = sealed
        self.failed = failed
        self.published: list[Work] = []
        self.error: Exception | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._pending: list[Future[None]] = []

    def submit(self, finished: Finished, lock: ExitStack) -> None:
        """Seal it after all those before; *lock* is closed when that is over."""
        self._pending.append(self._pool.submit(self._seal, finished, lock))

    def settle(self) -> Exception | None:
        """Wait until nothing is left to be sealed; return the first error of all."""
        while self._pending:
            self._pending.pop(0).result()
        return self.error

    def wait(self) -> None:
        """Wait until everything is published.

        :raises SfvmError: a node could not be sealed; it names the node
        :raises Cancelled: the build stops
        """
        if error := self.settle():
            raise error

    def close(self) -> None:
        """No more will come."""
        self.settle()
        self._pool.shutdown()

    def _seal(self, finished: Finished, lock: ExitStack) -> None:
        with lock:
            if self.error is not None:
                return  # a child of what could not be sealed
            try:
                self.stop.check()
                manifest = publish(finished, self.repository, self.stop, self.listener)
                self.published.append(finished.work)
                self.listener(NodeSealed(manifest.name, manifest.key, manifest.seconds, manifest.size))
                self.sealed(manifest.key)
            except Exception as error:  # raised again where the chain waits
                if isinstance(error, SfvmError):
                    error.node = error.node or finished.node.name
                self.error = error
                self.failed()


def publish(finished: Finished, repository: Repository, stop: Cancellation, listener: Listener) -> Manifest:
    """Put the node into the repository, and let its name stand for it, unless it is a trial. Its parent is there.

    :raises SfvmError: it cannot be written, or qemu-img fails
    :raises Cancelled: *stop* asks for it
    """
    begun = time.monotonic()
    node, work, told = finished.node, finished.work, finished.told
    if node.steps and not finished.recorded:
        work.finish(node.steps[-1].key, finished.tip, told)
    sealed = work.directory / "sealed.qcow2"
    parent = repository.backing(node.parent.key, stop=stop) if node.parent else None
    with phase(listener, node.name, "sealing"):
        qcow2.seal(finished.tip, finished.below, parent, sealed, stop=stop)
    with phase(listener, node.name, "hashing"):
        digest = qcow2.digest(sealed, stop=stop)  # while it is in memory
    definition, disk = node.definition, node.chain[0].definition.disk
    assert disk is not None  # a root has one
    manifest = Manifest(
        key=node.key,
        name=node.name,
        parent=node.parent.key if node.parent else None,
        parent_name=node.parent.name if node.parent else None,
        inputs=node.inputs,
        spec=to_xml(definition),
        steps=tuple(
            StepRecord(inputs.title, inputs.key, spent)
            for inputs, spent in zip(node.steps, told["seconds"], strict=True)
        ),
        digest=digest,
        size=sealed.stat().st_size,
        disk=disk.size,
        filesystem=disk.format,
        facts=dict(definition.facts),
        packages=tuple((name, version, architecture) for name, version, architecture in told["packages"]),
        created=time.time(),
        seconds=told["spent"] + time.monotonic() - begun,
        provenance=told["provenance"],
        depth=node.depth,
        origin=told["origin"],
        fetched=tuple(map(Fetched.from_json, told.get("fetched", ()))),
        parent_origin=work.backing_origin,
    )
    with phase(listener, node.name, "publishing"):
        repository.publish(node.key, sealed, manifest)
        if not node.pin.trial:
            repository.point(node.name, node.key)
    return manifest
