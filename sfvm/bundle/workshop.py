"""Where nodes are made ready: helper VMs, overlays to work on, and what is the same for every bundle of a node."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sfvm import qcow2
from sfvm.appliance import image as appliance_image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.bundle import kernel as kernels
from sfvm.bundle.disk import grub
from sfvm.bundle.finished import INITRD, VMLINUZ
from sfvm.bundle.secrets import Secret
from sfvm.bundle.sysprep import sysprep
from sfvm.cancellation import Cancellation
from sfvm.config import Settings, source_date_epoch
from sfvm.errors import BundleError
from sfvm.events import Listener, Output
from sfvm.guest import CommandFailed
from sfvm.repository import Manifest, Repository

ERASABLE = "cluster_size=128k,extended_l2=on"
"""How the file is made in which freed blocks become zero: with subclusters of 4 KiB, a file system's blocks, so that
nothing stays of files that are gone (keys, seeds), not even where a cluster of the node also holds files that stay.
Clusters of 4 KiB do that too, and have sixteen times the metadata."""
LAST_CLOCK = 1 << 32
"""A time (2106) that Linux takes for its clock; after 2232 it takes none."""


@dataclass(frozen=True)
class Workshop:
    """Where nodes are made ready: the *repository*, the *settings* of helper VMs, who listens, who may stop it, and the
    user's *secrets* by name."""

    repository: Repository
    settings: Settings
    listener: Listener
    stop: Cancellation
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    @contextmanager
    def running(self, drives: Sequence[Drive], name: str) -> Iterator[Appliance]:
        """An appliance with *drives*, for the node called *name*."""
        self.stop.check()
        image = appliance_image.ensure(self.settings.cache, self.listener)
        shape = Shape(memory=self.settings.memory, cpus=self.settings.cpus_each(), network=False)

        def log(line: str) -> None:
            self.listener(Output(name, line))

        with launch(
            image, drives, shape, self.settings, log=log, listener=self.listener, node=name, stop=self.stop
        ) as appliance:
            try:
                with self.stop.killing(appliance.kill):
                    yield appliance
            except CommandFailed as error:
                raise BundleError(
                    "preparing the bundle failed in the appliance",
                    node=name,
                    why=str(error),
                    detail=error.output,
                    hint="sfvm verify checks the node",
                ) from error


def identity(key: str) -> uuid.UUID:
    """What all identifiers of bundles of the node with *key* follow from."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"sfvm {key}")


def epoch(manifest: Manifest) -> int:
    """The time that artifacts tell: ``$SOURCE_DATE_EPOCH`` (reproducible-builds.org), else that of the node's build."""
    return source_date_epoch(manifest.created)


def prepare(appliance: Appliance, manifest: Manifest) -> None:
    """Mount the node's filesystem, and take from it what no two machines may share.

    The appliance's clock may be seconds behind ours. It is set past :func:`epoch`, so that whatever is changed from now
    on is later: that is how archives and filesystems give it the node's own time.
    """
    appliance.mount()
    latest = min(epoch(manifest) + 1, LAST_CLOCK)
    appliance.tool(f"[ $(date +%s) -ge {latest} ] || date --set=@{latest} >/dev/null")
    sysprep(appliance.guest)


def overlay_of(path: Path, backing: Path, *, relative: bool = False) -> Path:
    """An overlay at *path* to work on."""
    name = f"../../layers/{backing.name}" if relative else str(backing.absolute())
    qcow2.qemu_img("create", "-q", "-f", "qcow2", "-o", ERASABLE, "-b", name, "-F", "qcow2", path)
    return path


def kernel_of(appliance: Appliance, names: Sequence[str], directory: Path) -> kernels.Kernel | None:
    """Copy the newest kernel and its initramfs to *directory*, and tell what it has; None when there is none."""
    versions = grub.kernels(names)
    if not versions:
        return None
    version, guest = versions[0], appliance.guest
    with (directory / VMLINUZ).open("xb") as file:
        guest.download(f"/boot/vmlinuz-{version}", file)
    if (initrd := grub.initrd(version, names)) is not None:
        with (directory / INITRD).open("xb") as file:
            guest.download(f"/boot/{initrd}", file)

    def text(path: str) -> str:
        return guest.read(path).decode(errors="replace") if guest.exists(path) else ""

    image = (directory / VMLINUZ).read_bytes()
    tree = f"/lib/modules/{version}"
    if not guest.exists(tree):  # the file's name tells no version: vmlinuz-linux
        tree = f"/lib/modules/{kernels.release(image) or version}"
    return kernels.Kernel(
        version,
        kernels.options(text(f"/boot/config-{version}") or text(f"{tree}/config")),
        kernels.modules(text(f"{tree}/modules.builtin")),
        kernels.modules(text(f"{tree}/modules.dep")),
        kernels.initramfs_modules((directory / INITRD).read_bytes()) if initrd else frozenset(),
        kernels.compression(image),
    )


def in_machine(name: str, tree_overlay: Path | None, shop: Workshop, script: str, drives: Sequence[Path]) -> str:
    """Run *script* in an appliance of its own, with *drives* (raw) as its arguments and the filesystem *tree_overlay*
    at /sysroot; return its output.

    :raises BundleError: it fails
    """
    attached = [*([Drive(tree_overlay)] if tree_overlay else []), *(Drive(path, "raw") for path in drives)]
    with shop.running(attached, name) as appliance:
        if tree_overlay:
            appliance.mount(readonly=True)
        first = 1 if tree_overlay else 0
        devices = " ".join(appliance.device(first + number) for number in range(len(drives)))
        return appliance.run(f"set -- {devices}\n{script}")
