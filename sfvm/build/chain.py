"""Builds one chain of nodes in one appliance: a checkpoint before every step, a seal after every node.

While the appliance runs, its first drive is a growing chain of overlays::

    parent's sealed overlay ◀ 0000 (base) ◀ 0001 (after step 1) ◀ … ◀ tip

Every frozen file is a checkpoint in the node's work directory. Sealing merges them into one overlay over the parent's
sealed one without touching them, so the appliance goes on with the next node on top. The work directories of a chain
stay until its appliance is closed, because the files in them back the running drive.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sfvm import __version__, qcow2
from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.appliance.profile import baseline
from sfvm.build.failure import describe
from sfvm.build.log import NodeLog
from sfvm.build.scheduler import Cancelled, Chain
from sfvm.config import Settings
from sfvm.errors import SfvmError, StepError
from sfvm.events import ApplianceStarted, Listener, NodeSealed, NodeStarted, StepFinished, StepStarted, Waiting, phase
from sfvm.guest import CommandFailed
from sfvm.repository import Manifest, Repository, StepRecord, Work
from sfvm.spec.model import Disk
from sfvm.spec.render import to_xml
from sfvm.tree import Node
from sfvm.verbs import Base, Step

MAX_FILES = 100
"""So many overlays may pile up on a running drive; then a node's further steps get no checkpoints, and the next node
begins in a new appliance. libvirt refuses chains of more than 200 files, and reads cost time for each."""

Shell = Callable[[Node, Appliance, StepError], None]
"""What is called when a step failed and the user wants to look: it blocks until the user is done."""


@dataclass
class Running:
    """The appliance of a chain and what its first drive is made of: the file it writes to, and how many overlays lie
    over the sealed one."""

    appliance: Appliance
    tip: Path
    files: int


class ChainBuilder:
    """Builds *chain*; one object per chain and build. The appliance is started when the first step needs it."""

    def __init__(
        self,
        chain: Chain,
        repository: Repository,
        image: Image,
        settings: Settings,
        listener: Listener,
        *,
        sealed: Callable[[str], None],
        cancelled: Callable[[], bool],
        shell: Shell | None = None,
    ) -> None:
        self.chain = chain
        self.repository = repository
        self.image = image
        self.settings = settings
        self.listener = listener
        self.sealed = sealed
        self.cancelled = cancelled
        self.shell = shell
        self.running: Running | None = None
        self.log: NodeLog | None = None
        self.finished: list[Work] = []

    def run(self) -> None:
        """Build every node that is still missing.

        :raises StepError: a step failed; its work is kept for the next build
        :raises SfvmError: anything else that the user can act on
        :raises Cancelled: the build was stopped from outside
        """
        try:
            for position, node in enumerate(self.chain):
                self._check()
                with self.repository.lock(node.key, functools.partial(self._waiting, node), self.cancelled):
                    if self.repository.built(node.key):  # by another process, meanwhile
                        self._stop()
                    else:
                        self._build(node, last=position == len(self.chain) - 1)
                    self.repository.point(node.name, node.key)
                self.sealed(node.key)
        except Exception as error:
            if self.cancelled():  # the appliance was killed under us
                raise Cancelled from None
            if isinstance(error, SfvmError):
                error.node = error.node or node.name
            raise
        finally:
            self._stop()

    def kill(self) -> None:
        """Make whatever the appliance does end at once; called from another thread."""
        if self.running is not None:
            self.running.appliance.kill()

    def _waiting(self, node: Node, holder: str) -> None:
        self.listener(Waiting(node.name, holder))

    def _check(self) -> None:
        if self.cancelled():
            raise Cancelled

    def _stop(self) -> None:
        """Close the appliance; only then may the work directories of sealed nodes go."""
        if self.running is not None:
            self.running.appliance.close()
            self.running = None
        for work in self.finished:
            work.discard()
        self.finished.clear()

    def _build(self, node: Node, *, last: bool) -> None:
        started = time.monotonic()
        work = self.repository.work(node.key, node.name)
        done = self.repository.adopt(node.base_key, [step.key for step in node.steps], work)
        if self.running is not None and (work.checkpoints or self.running.files >= MAX_FILES):
            self._stop()
        with NodeLog(node.name, self.repository.log_path(node.key), self.listener) as self.log:
            self.log.heading(f"building {node.name} {node.key[:12]}" + (f", {done} steps are done" if done else ""))
            self.listener(NodeStarted(node.name, node.key, len(node.steps), done + 1))
            history = self.repository.last(node.name) or {}
            expected = {step["title"]: step["seconds"] for step in history.get("steps", ())}
            below = self._begin(node, work)
            seconds = [0.0] * done
            for index, step in enumerate(node.definition.steps[done:], start=done + 1):
                seconds.append(self._step(node, work, index, step, expected.get(step.title())))
            self._seal(node, work, below, seconds, started, last=last)

    def _begin(self, node: Node, work: Work) -> Path | None:
        """Bring the appliance to the state before the first step to do. Return the file below the node's first
        overlay on the running drive (None for a root)."""
        parent = self.repository.backing(node.parent.key) if node.parent else None
        if self.running is not None:
            below = self.running.tip
            work.begin(node.base_key, parent, node.parent.key if node.parent else None, self._root_disk(node).size)
            self._checkpoint(work)
            return below
        resumed = work.last_good()
        overlay = work.next_overlay()
        if resumed is not None:
            qcow2.create(overlay, backing=resumed)
            self._launch(node, overlay, len(work.checkpoints))
            self._running.appliance.mount()
            return parent
        work.begin(node.base_key, parent, node.parent.key if node.parent else None, self._root_disk(node).size)
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
            prepared = base.prepare(work.directory, disk.size, disk.format)
        if prepared is None:
            qcow2.create(overlay, size=disk.size)
        else:
            prepared.rename(overlay)
        self._launch(node, overlay, 1)
        appliance = self._running.appliance

        def populate() -> None:
            if prepared is None:
                appliance.format(disk.format)
            else:
                appliance.grow()
            appliance.mount()
            base.populate(appliance.guest)

        self._do(node, work, 0, base, None, populate)
        self._freeze(work, None)

    def _step(self, node: Node, work: Work, index: int, step: Step, expected: float | None) -> float:
        self._check()
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
            action()
        except (CommandFailed, SfvmError) as error:
            self._check()
            failure = describe(error, node, index, verb, work.directory)
            if isinstance(error, CommandFailed):
                if self.shell is not None:
                    self.shell(node, self._running.appliance, failure)
                self._running.appliance.close()
                work.fail(self._running.tip, failure.render())
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
        work.record(step_key, frozen)

    def _checkpoint(self, work: Work) -> None:
        running = self._running
        overlay = work.next_overlay()
        with phase(self.listener, work.node, "checkpoints"):
            running.appliance.checkpoint(overlay)
        running.tip = overlay
        running.files += 1

    def _seal(
        self, node: Node, work: Work, below: Path | None, seconds: list[float], started: float, *, last: bool
    ) -> None:
        """Put the node, as it is now on the running drive, into the repository."""
        running = self._running
        appliance = running.appliance
        with phase(self.listener, node.name, "trimming"):
            packages = appliance.guest.packages()
            appliance.trim()
        provenance = {
            "sfvm": __version__,
            "accelerator": appliance.accelerator,
            "connection": appliance.connection,
            "appliance": self.image.digest,
        }
        tip = running.tip
        if last:
            with phase(self.listener, node.name, "closing"):
                appliance.unmount()
                appliance.close()
        else:
            self._checkpoint(work)  # QEMU still holds parts of an open overlay in memory: freeze it
        sealed = work.directory / "sealed.qcow2"
        parent = self.repository.backing(node.parent.key) if node.parent else None
        with phase(self.listener, node.name, "sealing"):
            qcow2.seal(tip, below, parent, sealed)
        with phase(self.listener, node.name, "hashing"):
            digest = qcow2.digest(sealed)
        definition = node.definition
        manifest = Manifest(
            key=node.key,
            name=node.name,
            parent=node.parent.key if node.parent else None,
            parent_name=node.parent.name if node.parent else None,
            inputs=node.inputs,
            spec=to_xml(definition),
            steps=tuple(
                StepRecord(inputs.title, inputs.key, spent) for inputs, spent in zip(node.steps, seconds, strict=True)
            ),
            digest=digest,
            size=sealed.stat().st_size,
            disk=self._root_disk(node).size,
            filesystem=self._root_disk(node).format,
            facts=dict(definition.facts),
            packages=tuple((p.name, p.version, p.architecture) for p in packages),
            created=time.time(),
            seconds=time.monotonic() - started,
            provenance=provenance,
            depth=node.depth,
        )
        with phase(self.listener, node.name, "publishing"):
            self.repository.publish(node.key, sealed, manifest)
        self.finished.append(work)
        self.listener(NodeSealed(node.name, node.key, manifest.seconds, manifest.size))

    def _launch(self, node: Node, overlay: Path, files: int) -> None:
        self._check()
        begun = time.monotonic()
        shape = Shape(self.settings.memory, self.settings.cpus, baseline=baseline(node.definition.facts))
        appliance = launch(
            self.image,
            [Drive(overlay)],
            shape,
            self.settings,
            log=lambda line: self._log.line(line),
            listener=self.listener,
            node=node.name,
        )
        self.running = Running(appliance, overlay, files)
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
