"""From settings to a running appliance: which connection, which accelerator, restored or booted."""

from __future__ import annotations

import contextlib
import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sfvm.appliance import acceleration, warm
from sfvm.appliance.hypervisor import choose, version
from sfvm.appliance.image import Image
from sfvm.appliance.machine import Appliance, Drive, Shape, start
from sfvm.appliance.migration import write_state
from sfvm.appliance.profile import Profile
from sfvm.appliance.qmp import Monitor, Refused
from sfvm.cancellation import NEVER, Cancellation
from sfvm.config import Settings
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Notice, phase


def launch(
    image: Image,
    drives: Sequence[Drive],
    shape: Shape,
    settings: Settings,
    *,
    log: Callable[[str], None],
    listener: Listener,
    node: str = "",
    stop: Cancellation = NEVER,
) -> Appliance:
    """Start an appliance with *drives*; *log* gets what commands in it write, line by line, from another thread. It is
    restored from a saved state where there is one; else it boots, and is saved for the next time.

    :raises ApplianceError: it cannot be started; the message has the last console lines
    :raises Cancelled: *stop* asks for it
    """
    if shutil.which("qemu-system-x86_64") is None:
        raise ApplianceError("qemu-system-x86_64 is not installed", node=node or None, hint="./bootstrap installs it")
    with phase(listener, node, "appliance"):
        connection = choose(settings.connection, listener)
        profile = acceleration.prove(image, settings, listener)
        begin = functools.partial(start, image, drives, shape, connection, profile, log=log, node=node, stop=stop)
        if not (settings.warm and warmable(connection)):
            return begin()
        states = _States(
            warm.Store(settings.saved_appliances), _key(image, drives, shape, connection, profile), listener
        )
        if (state := states.find()) is not None:
            try:
                appliance = begin(state=state)
            except ApplianceError as error:
                appliance = begin()
                # It boots: so it was the state's fault.
                states.discard(state, error.detail[-1] if error.detail else error.why or error.what)
            else:
                states.store.proved(states.key, state)
            return appliance
        return begin(save=states.saver(shape))


def warmable(connection: str) -> bool:
    """Whether an appliance of this *connection* can be saved: its QEMU must be this user's, here, to read the state."""
    return connection == "direct" or connection.endswith(":///session")


def _key(image: Image, drives: Sequence[Drive], shape: Shape, connection: str, profile: Profile) -> str:
    emulator = Path(shutil.which("qemu-system-x86_64") or "")
    machine = {**asdict(shape), "cpu": profile.cpu(shape.baseline), "drives": [drive.readonly for drive in drives]}
    return warm.key(
        emulator=emulator, appliance=image.digest, machine=machine, connection=connection, versions=version(connection),
        profile=profile,
    )  # fmt: skip


@dataclass(frozen=True)
class _States:
    """The saved state that fits one launch."""

    store: warm.Store
    key: str
    listener: Listener

    def find(self) -> warm.State | None:
        try:
            return self.store.find(self.key)
        except warm.Doubt as doubt:
            self.discard(None, str(doubt))
            return None

    def discard(self, state: warm.State | None, why: str) -> None:
        self.listener(Notice(f"a saved appliance was not used and is removed, this one boots ({why})"))
        self.store.discard(self.key, state, why)

    def _unsaved(self, why: str) -> None:
        self.listener(Notice(f"the appliance could not be saved for the next time ({why})"))

    def saver(self, shape: Shape) -> Callable[[Path, Path], None] | None:
        """What saves the appliance during its boot; None when there is no room for it."""
        if not self.store.has_room(shape.memory << 20):
            return None

        def save(monitor: Path, directory: Path) -> None:
            try:
                with contextlib.closing(Monitor(monitor)) as connection:
                    self.store.save(self.key, lambda file: write_state(connection, directory, file))
            except OSError as error:
                self._unsaved(str(error))
            except Refused as error:
                self._unsaved(error.why or error.what)
                self.store.refuse(self.key, error.why or error.what)
            except ApplianceError:
                pass  # it has died: the launch tells

        return save
