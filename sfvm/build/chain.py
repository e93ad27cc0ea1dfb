"""Builds one chain of nodes in one appliance: a checkpoint before every step, a seal after every node.

While the appliance runs, its first drive is a growing chain of overlays::

    parent's sealed overlay ◀ 0000 (base) ◀ 0001 (after step 1) ◀ … ◀ tip

Every frozen file is a checkpoint in the node's work directory. Sealing merges them into one overlay over the parent's
sealed one without touching them, so the appliance goes on with the next node on top while that is done. The work
directories of a chain stay until its appliance is closed, because the files in them back the running drive.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sfvm import __version__, qcow2
from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.appliance.profile import baseline
from sfvm.build.failure import describe
from sfvm.build.log import NodeLog
from sfvm.build.sealing import Finished, Sealer
from sfvm.cancellation import Cancellation
from sfvm.config import Settings
from sfvm.downloads.access import Access
from sfvm.downloads.fetched import distinct
from sfvm.downloads.policy import Policy
from sfvm.downloads.transfer import Transfers
from sfvm.errors import SfvmError, StepError
from sfvm.events import ApplianceStarted, Listener, NodeFound, NodeStarted, StepFinished, StepStarted, Waiting, phase
from sfvm.guest import KEPT, CommandFailed
from sfvm.repository import Repository, Work
from sfvm.repository.files import temporary
from sfvm.spec.model import Disk
from sfvm.tree import Node
from sfvm.tree.node import canonical
from sfvm.verbs import Attached, Base, Host, Step

MAX_FILES = 100
"""So many overlays may pile up on a running drive; then a node's further steps get no checkpoints, and the next node
begins in a new appliance. libvirt refuses chains of more than 200 files, and reads cost time for each."""

Chain = tuple[Node, ...]

Shell = Callable[[Node, Appliance, StepError], None]
"""What is called when a step failed and the user wants to look: it blocks until the user is done."""


@dataclass
class Running:
    """The appliance of a chain and what its first drive is made of: the file it writes to, how many overlays lie over
    the sealed one, and which build of the node before it is (its manifest's *origin*)."""

    appliance: Appliance
    tip: Path
    files: int
    origin: str | None = None


class ChainBuilder:
    """Builds *chain*; one object per chain and build. The appliance is started when the first step needs it. *policy*
    says what each node's steps may download, over *transfers*."""

    def __init__(
        self,
        chain: Chain,
        repository: Repository,
        image: Image,
        settings: Settings,
        listener: Listener,
        *,
        sealed: Callable[[str], None],
        stop: Cancellation,
        transfers: Transfers,
        policy: Callable[[Node], Policy],
        shell: Shell | None = None,
    ) -> None:
        self.chain = chain
        self.repository = repository
        self.image = image
        self.settings = settings
        self.listener = listener
        self.sealed = sealed
        self.stop = stop
        self.transfers = transfers
        self.policy = policy
        self.shell = shell
        self.running: Running | None = None
        self.log: NodeLog | None = None
        self.access: Access
        self.sealer = Sealer(repository, listener, stop, sealed=sealed, failed=self.kill)

    def run(self) -> None:
        """Build every node that is still missing.

        :raises StepError: a step failed; its work is kept for the next build
        :raises SfvmError: anything else that the user can act on
        :raises Cancelled: the build was stopped from outside
        """
        node = self.chain[0]
        try:
            with self.stop.killing(self.kill):
                try:
                    for node in self.chain:
                        self._node(node, last=node is self.chain[-1])
                    self.sealer.wait()
                except Exception as error:
                    if isinstance(error, SfvmError):
                        error.node = error.node or node.name
                    cause = self.sealer.settle()
                    if cause is not None and cause is not error:
                        raise cause from None  # it came first, and is why the appliance was killed
                    raise
        finally:
            self._stop()
            self.sealer.close()

    def kill(self) -> None:
        """Make whatever the appliance does end at once; called from another thread."""
        if (running := self.running) is not None:
            running.appliance.kill()

    def _waiting(self, node: Node, holder: str) -> None:
        self.listener(Waiting(node.name, holder))

    def _stop(self) -> None:
        """Close the appliance, and wait for what is being sealed; only then may the work of sealed nodes go."""
        if self.running is not None:
            self.running.appliance.close()
            self.running = None
        self.sealer.settle()
        for work in self.sealer.published:
            with phase(self.listener, work.node, "clean-up"):
                work.discard()
        self.sealer.published.clear()

    def _node(self, node: Node, *, last: bool) -> None:
        """Build *node*, or take it as it is. Its lock is held until it is published."""
        self.stop.check()
        with ExitStack() as lock:
            lock.enter_context(self.repository.lock(node.key, functools.partial(self._waiting, node), self.stop.asked))
            if self.repository.built(node.key):  # by another process, meanwhile
                self._stop()
                if not node.pin.trial:
                    self.repository.point(node.name, node.key)
                self.listener(NodeFound(node.name))
                self.sealed(node.key)
            else:
                self.sealer.submit(self._build(node, last=last), lock.pop_all())

    def _build(self, node: Node, *, last: bool) -> Finished:
        started = time.monotonic()
        if self.running is not None and self.running.files >= MAX_FILES:
            self._stop()
        if self.running is None:
            self.sealer.wait()  # a new appliance, or older work, stands on the published parent
        work = self.repository.work(node.key, node.name)
        done = self.repository.adopt(node.base_key, [step.key for step in node.steps], work)
        policy = replace(self.policy(node), locked=node.pin.contents)
        self.access = Access(self.transfers, policy, self.stop, self.listener)
        if self.running is not None and work.checkpoints:
            self._stop()
        with NodeLog(node.name, self.repository.log_path(node.key), self.listener) as self.log:
            self.log.heading(f"building {node.name} {node.key[:12]}" + (f", {done} steps are done" if done else ""))
            self.listener(NodeStarted(node.name, node.key, len(node.steps), done + 1))
            if work.finished is not None:
                parent = self.repository.backing(node.parent.key, stop=self.stop) if node.parent else None
                return Finished(node, work, work.checkpoints[-1], parent, work.finished, recorded=True)
            history = self.repository.last(node.name) or {}
            expected = {step["title"]: step["seconds"] for step in history.get("steps", ())}
            below = self._begin(node, work)
            seconds = [0.0] * done
            for index, step in enumerate(node.definition.steps[done:], start=done + 1):
                seconds.append(self._step(node, work, index, step, expected.get(step.title())))
            return self._finish(node, work, below, seconds, started, last=last)

    def _begin(self, node: Node, work: Work) -> Path | None:
        """Bring the appliance to the state before the first step to do. Return the file below the node's first
        overlay on the running drive (None for a root)."""
        size = self._root_disk(node).size
        if self.running is not None:
            assert node.parent is not None  # the node before, which may not be published yet
            self.running.appliance.grant(self.access)
            if node.pin.contents is not None:  # a lock may have newer indexes for a child than for its parent
                self.running.appliance.run(f"rm -rf {KEPT}/*")
            below, sealed = self.running.tip, self.repository.overlay(node.parent.key)
            work.begin(node.base_key, sealed, node.parent.key, size, backing_origin=self.running.origin)
            self._checkpoint(work)
            return below
        parent = self.repository.backing(node.parent.key, stop=self.stop) if node.parent else None
        resumed = work.last_good()
        overlay = work.next_overlay()
        if resumed is not None:
            qcow2.create(overlay, backing=resumed)
            self._launch(node, overlay, len(work.checkpoints))
            self._running.appliance.mount()
            return parent
        work.begin(node.base_key, parent, node.parent.key if node.parent else None, size)
        if parent is not None:
            qcow2.create(overlay, backing=parent)
            self._launch(node, overlay, 1)
            self._running.appliance.mount()
            return parent
        self._root(node, work, overlay)
        return None

    def _root(self, node: Node, work: Work, overlay: Path) -> None:
        definition = node.definition
        base, disk = definition.base, definition.disk
        assert base is not None and disk is not None  # a definition without a parent has both
        with phase(self.listener, node.name, "preparing"):
            architecture = definition.facts["architecture"]
            host = Host(work.directory, disk.size, architecture, self.access, self.listener)
            attached = base.prepare(host)
        qcow2.create(overlay, size=disk.size)
        self._launch(node, overlay, 1, attached)
        appliance = self._running.appliance

        def populate() -> None:
            appliance.format(disk.format)
            appliance.mount()
            base.populate(appliance.guest, host)

        self._do(node, work, 0, base, None, populate)
        self._freeze(work, None)

    def _step(self, node: Node, work: Work, index: int, step: Step, expected: float | None) -> float:
        self.stop.check()
        guest = self._running.appliance.guest
        seconds = self._do(node, work, index, step, expected, lambda: step.run(guest))
        if index < len(node.steps):  # the last one is sealed instead
            self._freeze(work, node.steps[index - 1].key)
        return seconds

    def _do(
        self, node: Node, work: Work, index: int, verb: Step | Base, expected: float | None, action: Callable[[], None]
    ) -> float:
        """Run *action* as step *index* (0: the base); return its seconds.

        :raises StepError: with the step's name, place and last lines
        """
        title = verb.title()
        self._log.heading(f"step {index} of {len(node.steps)}: {title} ({verb.place})")
        self.listener(StepStarted(node.name, index, title, str(verb.place), expected))
        begun = time.monotonic()
        try:
            _require_unchanged(node, index, verb)
            action()
            _require_unchanged(node, index, verb)
        except (CommandFailed, SfvmError) as error:
            self.stop.check()
            failure = describe(error, node, index, verb, work.directory)
            if isinstance(error, CommandFailed):
                if self.shell is not None:
                    self.shell(node, self._running.appliance, failure)
                self._running.appliance.close()
                work.fail(self._running.tip, failure.render(), node.definition.facts)
            raise failure from error
        seconds = time.monotonic() - begun
        self.listener(StepFinished(node.name, index, seconds))
        return seconds

    def _freeze(self, work: Work, step_key: str | None) -> None:
        """The state reached is a checkpoint from here on; when there are very many, later steps go without."""
        if self._running.files >= MAX_FILES:
            return
        frozen = self._running.tip
        self._checkpoint(work)
        work.record(step_key, frozen, self.access.ledger.take())

    def _checkpoint(self, work: Work) -> None:
        running = self._running
        overlay = work.next_overlay()
        with phase(self.listener, work.node, "checkpoints"):
            running.appliance.checkpoint(overlay)
        running.tip = overlay
        running.files += 1

    def _finish(
        self, node: Node, work: Work, below: Path | None, seconds: list[float], started: float, *, last: bool
    ) -> Finished:
        """Freeze the node as it is now on the running drive."""
        running = self._running
        appliance = running.appliance
        with phase(self.listener, node.name, "trimming"):
            packages = appliance.guest.packages()
            appliance.trim()
        running.origin = secrets.token_hex(32)
        told: dict[str, Any] = {
            "origin": running.origin,
            "fetched": [one.to_json() for one in distinct([*work.fetched, *self.access.ledger.take()])],
            "packages": [[package.name, package.version, package.architecture] for package in packages],
            "seconds": seconds,
            "provenance": {
                "sfvm": __version__,
                "accelerator": appliance.accelerator,
                "connection": appliance.connection,
                "appliance": self.image.digest,
            },
        }
        tip = running.tip
        if last:
            with phase(self.listener, node.name, "closing"):
                appliance.unmount()
                appliance.close()
        else:
            self._checkpoint(work)  # QEMU still holds parts of an open overlay in memory: freeze it
        return Finished(node, work, tip, below, {**told, "spent": time.monotonic() - started})

    def _launch(self, node: Node, overlay: Path, files: int, attached: Sequence[Attached] = ()) -> None:
        self.stop.check()
        begun = time.monotonic()
        shape = Shape(self.settings.memory, self.settings.cpus_each(), baseline=baseline(node.definition.facts))
        appliance = launch(
            self.image,
            [Drive(overlay), *(Drive(disk.path, disk.format, readonly=True) for disk in attached)],
            shape,
            self.settings,
            log=lambda line: self._log.line(line),
            listener=self.listener,
            node=node.name,
            stop=self.stop,
        )
        appliance.supplied(self.access, temporary(self.repository.temporary(), "exchange"), self.listener)
        self.running = Running(appliance, overlay, files)
        self.stop.check()  # asked just now
        seconds = time.monotonic() - begun
        self.listener(
            ApplianceStarted(node.name, seconds, appliance.accelerator, appliance.connection, appliance.restored)
        )

    @property
    def _running(self) -> Running:
        assert self.running is not None  # _begin has launched it
        return self.running

    @property
    def _log(self) -> NodeLog:
        assert self.log is not None  # _build has opened it
        return self.log

    @staticmethod
    def _root_disk(node: Node) -> Disk:
        disk = node.chain[0].definition.disk
        assert disk is not None  # a chain begins with a root
        return disk


def _require_unchanged(node: Node, index: int, verb: Step | Base) -> None:
    """The key tells what was read when the build was planned; files that are the same are not read again.

    :raises StepError: *verb*, step *index* of *node* (0: its base), would mean something else now
    """
    planned = node.steps[index - 1].inputs if index else node.inputs["base"]["inputs"]
    try:
        changed = canonical(verb.inputs()) != canonical(planned)
    except (OSError, SfvmError):
        changed = True  # removed, for example
    if changed:
        raise StepError(
            "a file that it reads was changed while the node was being built",
            place=verb.place,
            hint="run the same command again",
        )
