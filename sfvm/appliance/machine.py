"""A running helper VM: how it starts, and everything one does with it that is not about the guest's files."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import posixpath
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sfvm.appliance.channel import LogChannel
from sfvm.appliance.console import Console
from sfvm.appliance.guest import ApplianceGuest
from sfvm.appliance.handshake import Booted, Restored
from sfvm.appliance.hypervisor import Direct, Hypervisor, Libvirt, kill_until
from sfvm.appliance.image import Image
from sfvm.appliance.profile import V2, Profile
from sfvm.appliance.runner import Runner
from sfvm.appliance.scratch import Scratch
from sfvm.appliance.supply import Supply
from sfvm.appliance.terminal import attach
from sfvm.appliance.waiting import interruptible, quiet
from sfvm.appliance.warm import State
from sfvm.cancellation import NEVER, Cancellation
from sfvm.downloads.access import Access
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Notice
from sfvm.guest import Command, CommandFailed

if TYPE_CHECKING:
    import guestfs

EXT4_FEATURES = "^metadata_csum_seed,^orphan_file"
"""Newer e2fsprogs turn these on; GRUB 2.06 and older kernels cannot read them."""


@dataclass(frozen=True)
class Drive:
    """A disk of the appliance."""

    path: Path
    format: str = "qcow2"
    readonly: bool = False


@dataclass(frozen=True)
class Shape:
    """*memory* in MiB, *cpus*, whether there is a *network* at all (commands may still be run without), and what the
    guest's programs are compiled for."""

    memory: int = 1024
    cpus: int = 1
    network: bool = True
    baseline: str = V2


def start(
    image: Image,
    drives: Sequence[Drive],
    shape: Shape,
    connection: str,
    profile: Profile,
    *,
    log: Callable[[str], None],
    node: str = "",
    state: State | None = None,
    save: Save | None = None,
    stop: Cancellation = NEVER,
) -> Appliance:
    """Start an appliance, everything being decided: from a saved *state*, or else by a boot, in which *save* may save
    it.

    :raises ApplianceError: it does not start; the message has the last console lines
    :raises Cancelled: *stop* asks for it
    """
    appliance = Appliance(Scratch(), drives, connection, profile, log, node)
    try:
        appliance.boot(image, shape, state, save, stop)
    except BaseException:
        appliance.close()
        raise
    return appliance


Save = Callable[[Path, Path], None]
"""Saves the appliance while it waits: gets the socket of QEMU's monitor, and a directory for a socket of its own."""


def _reason(message: str) -> str:
    """libguestfs's message without its advice about its own tools."""
    lines = message.strip().splitlines() or [""]
    original = [line for line in lines if line.startswith("Original error")]
    return (original or lines)[0]


class Appliance:
    """A running helper VM; a context manager that leaves nothing behind. Not thread-safe, but for :meth:`kill`."""

    def __init__(
        self,
        scratch: Scratch,
        drives: Sequence[Drive],
        connection: str,
        profile: Profile,
        log: Callable[[str], None],
        node: str,
    ) -> None:
        self.scratch = scratch
        self.directory = directory = scratch.path
        self.drives = tuple(drives)
        self.profile = profile
        self.node = node
        self.console = Console()
        self.monitor = directory / "qmp"
        self.hypervisor: Hypervisor = (
            Direct(self.monitor) if connection == "direct" else Libvirt(connection, directory / "log")
        )
        self.channel = LogChannel(directory / "log", log, Booted())
        self.terminal = directory / "terminal"
        self.restored = False
        self.supply: Supply | None = None
        self._handle: guestfs.GuestFS | None = None
        self._launched = threading.Event()
        self._mounted = False
        self.guest: ApplianceGuest

    @property
    def accelerator(self) -> str:
        return self.profile.name

    @property
    def connection(self) -> str:
        return self.hypervisor.name

    def boot(self, image: Image, shape: Shape, state: State | None, save: Save | None, stop: Cancellation) -> None:
        """Start the VM and wait until it is ready; it is killed when that takes longer than the profile allows."""
        import guestfs

        handle = guestfs.GuestFS(python_return_dict=True, close_on_exit=False)
        self._handle = handle
        handle.set_path(str(image.directory))
        handle.set_tmpdir(str(self.directory))
        handle.set_cachedir(str(image.directory))  # what libguestfs has learnt about QEMU
        handle.set_hv(str(image.emulator))
        handle.config("-sfvm-tmp", str(self.directory))  # for the image's emulator, as the next ones
        if (cpu := self.profile.cpu(shape.baseline)) is not None:
            handle.config("-sfvm-cpu", cpu)
        handle.set_pgroup(True)  # Ctrl-C is for us to handle, not for QEMU
        handle.set_memsize(shape.memory)
        handle.set_smp(shape.cpus)
        handle.set_network(shape.network)
        handle.set_backend(self.hypervisor.backend)
        handle.set_backend_setting("force_kvm" if self.profile.name == "kvm" else "force_tcg", "1")
        if self.profile.kernel:
            handle.set_append(self.profile.kernel)
        handle.set_event_callback(self._console, guestfs.EVENT_APPLIANCE)
        self._attach(handle)
        # A full host disk is an I/O error for the guest, instead of a VM that stops for ever.
        for device in ("scsi-hd", "virtio-blk-pci"):
            handle.config("-global", f"{device}.werror=report")
        self._port(handle, "log", f"socket,id=sfvmlog,path={self.channel.path}")
        self._port(handle, "terminal", f"socket,id=sfvmterminal,path={self.terminal},server=on,wait=off")
        handle.config("-qmp", f"unix:{self.monitor},server=on,wait=off")
        patience = self.profile.boot_seconds
        if state is not None:
            handle.config("-sfvm-state", str(state.path))
            patience = self.profile.restore_seconds
            self.channel.handshake = Restored(state, self._refuse)
        elif save is not None:
            self.channel.handshake = Booted(lambda: save(self.monitor, self.directory))
        watch = threading.Timer(patience, self._stuck, [patience])
        watch.daemon = True
        watch.start()
        try:
            with stop.killing(self._kill_by_directory):
                try:
                    interruptible(functools.partial(self._launch, handle), self._kill_by_directory)
                finally:
                    self._launched.set()  # or it has never begun
        except RuntimeError as error:
            raise self._died("the appliance did not start", str(error)) from error
        finally:
            watch.cancel()
        self.restored = state is not None
        self.scratch.note(self.hypervisor.started(handle))
        self.guest = ApplianceGuest(handle, Runner(handle, self.channel, self._died, self.kill), self._died)

    def supplied(self, access: Access, exchange: Path, listener: Listener) -> None:
        """Let commands have the network, as *access* allows, and, where the CPU is emulated, packages that the host
        unpacks into the file *exchange*. A VM on another host does not reach ours: it has no network."""
        self.grant(access)
        if self.connection != "direct" and ":///" not in self.connection:
            listener(Notice(f"no network for steps: {self.connection} is not on this host"))
            return
        runner = self.guest.runner
        path = exchange if self.profile.emulated else None
        self.supply = runner.supply = Supply(access, path, self.hypervisor, runner.shell, listener)

    def grant(self, access: Access) -> None:
        """From here on commands have the network as *access* allows."""
        self.guest.access = access
        if self.supply is not None:
            self.supply.access = access

    def _launch(self, handle: guestfs.GuestFS) -> None:
        try:
            quiet(handle)
            handle.launch()
        finally:
            self._launched.set()

    def _attach(self, handle: guestfs.GuestFS) -> None:
        for drive in self.drives:
            try:
                # Nothing in the VM waits for the host's disk: what is kept is synced when it is sealed.
                handle.add_drive_opts(
                    str(drive.path),
                    format=drive.format,
                    readonly=drive.readonly,
                    cachemode="unsafe",
                    discard="disable" if drive.readonly else "besteffort",
                )
            except RuntimeError as error:
                raise ApplianceError("a disk cannot be attached", node=self.node or None, why=str(error)) from error

    @staticmethod
    def _port(handle: guestfs.GuestFS, name: str, chardev: str) -> None:
        handle.config("-chardev", chardev)
        # As JSON: QEMU makes such devices after all others, so the serial bus is there under libvirt too.
        device = {"driver": "virtserialport", "chardev": f"sfvm{name}", "name": f"org.sfvm.{name}"}
        handle.config("-device", json.dumps(device))

    def _stuck(self, seconds: int) -> None:
        self._refuse(f"not ready after {seconds} s")

    def _refuse(self, why: str) -> None:
        self.console.feed(f"\nsfvm: {why}, killed\n")
        self._kill_by_directory()

    def _kill_by_directory(self) -> None:
        """Until the launch is over QEMU's process ID is not known, but that it was given our directory."""
        kill_until(self._launched, self.directory)

    def _console(self, event: int, handle: int, data: bytes | str, array: Sequence[int]) -> None:
        self.console.feed(data if isinstance(data, str) else data.decode("utf-8", errors="replace"))

    def _died(self, what: str, why: str) -> ApplianceError:
        return ApplianceError(
            what,
            node=self.node or None,
            why=_reason(why),
            detail=self.console.last_words(),
            hint="sfvm doctor checks the machine",
        )

    @property
    def handle(self) -> guestfs.GuestFS:
        """libguestfs's handle, for what this class has no name for."""
        if self._handle is None:
            raise ApplianceError("the appliance is closed")
        return self._handle

    @contextlib.contextmanager
    def _calling(self, what: str) -> Any:
        try:
            yield self.handle
        except RuntimeError as error:
            raise self._died(f"{what} failed in the appliance", str(error)) from error

    def format(self, filesystem: str) -> None:
        """Make an empty *filesystem* on the whole first drive."""
        with self._calling(f"mkfs.{filesystem}") as handle:
            if filesystem == "ext4":
                self.run(
                    f"mke2fs -q -t ext4 -F -O {EXT4_FEATURES} {self.device(0)} 2>/dev/null || "
                    f"mke2fs -q -t ext4 -F {self.device(0)}"
                )
            else:
                handle.mkfs(filesystem, "/dev/sda")

    def mount(self, readonly: bool = False) -> None:
        """Mount the first drive as the guest's root."""
        if not self._mounted:
            with self._calling("mount") as handle:
                handle.mount_options("ro" if readonly else "", "/dev/sda", "/")
            self._mounted = True

    def unmount(self) -> None:
        if self._mounted:
            with self._calling("unmount") as handle:
                handle.umount("/")
            self._mounted = False

    def checkpoint(self, overlay: Path) -> None:
        """Freeze the first drive's file as it is and go on in the new file *overlay* over it."""
        mounted = self._mounted
        self.unmount()
        self.hypervisor.snapshot(overlay)
        if mounted:
            self.mount()

    def trim(self) -> None:
        """Give unused blocks back."""
        with self._calling("fstrim") as handle:
            handle.fstrim("/")

    def erase(self) -> None:
        """Commit what was written, and make every unused block zero. :meth:`trim` is a hint, which a drive follows for
        whole clusters of its file; this is an order (WRITE SAME of zeros), which holds for every block, and takes no
        room where the file can tell blocks apart.

        :raises CommandFailed: it cannot
        """
        self.tool(
            "sync --file-system /sysroot\n"
            "for mode in /sys/class/scsi_disk/*/provisioning_mode; do echo writesame_16 >$mode; done\n"
            "fstrim /sysroot"
        )

    def device(self, index: int) -> str:
        """The device of drive *index* for scripts of the appliance (the kernel's ``sdX`` may be in another order)."""
        return f"/dev/disk/by-path/pci-0000:00:02.0-scsi-0:0:{index:03}:0"

    def run(self, script: str, *, timeout: float | None = None) -> str:
        """Run *script* with the appliance's tools (the guest, when mounted, is ``/sysroot``) and return its output.

        :raises CommandFailed: it failed
        """
        return self.guest.capture(Command(script, shell="/bin/bash -e", place="appliance", timeout=timeout))

    def tool(self, script: str) -> str:
        """Run a short *script* of our own with the appliance's tools and return its output, without newlines at its
        end; nothing of it may outlive it. Without KVM :meth:`run` costs a tenth of a second for namespaces and a log.

        :raises CommandFailed: it failed
        """
        try:
            return str(self.handle.debug("sh", [f"set -e\n{script}"]))
        except RuntimeError as error:
            if not self.alive():
                raise self._died("the appliance died", str(error)) from error
            raise CommandFailed(1, [str(error)]) from error

    def secret(self, path: str, value: bytes) -> None:
        """Put *value* into the file *path* in the appliance's memory: over the daemon's own channel, so that neither an
        argument list nor a trace of libguestfs's has it. Nothing may be mounted yet.

        :raises ApplianceError: the VM died
        """
        with self._calling("a secret") as handle:
            # guestfsd writes below what is mounted at /sysroot alone.
            self.tool("mount -t tmpfs -o mode=700 tmpfs /sysroot")
            source = os.memfd_create("secret")
            try:
                os.write(source, value)
                handle.upload(f"/proc/self/fd/{source}", "/secret")
                self.tool(f"mkdir -p {posixpath.dirname(path)}\ncp /sysroot/secret {path}\nchmod 400 {path}")
            finally:
                os.close(source)
                self.tool("umount /sysroot")

    def interactive(self, command: str | None) -> int:
        """A terminal in the guest on the user's terminal, or *command* there; return its exit status."""
        return attach(self.guest.runner, self.terminal, command, self.kill)

    def alive(self) -> bool:
        """Whether the VM still answers."""
        try:
            self.handle.ping_daemon()
        except (RuntimeError, ApplianceError):
            return False
        return True

    def kill(self) -> None:
        """End the VM at once, from any thread: whatever call is running in it fails."""
        self.hypervisor.kill()

    def close(self) -> None:
        """End the VM and remove everything of it. Work in the guest is on its drives."""
        handle, self._handle = self._handle, None
        if handle is not None:
            if self._mounted:
                with contextlib.suppress(RuntimeError):  # a dead VM has nothing mounted
                    handle.umount_all()
            self._mounted = False
            self.hypervisor.close()
            with contextlib.suppress(RuntimeError):
                handle.shutdown()
            handle.close()
        if self.supply is not None:
            self.supply.close()
        if self.directory.exists():
            self.channel.close()
            self.scratch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
