"""What bundling changes in the guest, once per node and layout, on an overlay of its own that is thrown away after."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sfvm import qcow2
from sfvm.appliance import image as appliance_image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.bundle import grub
from sfvm.bundle.layout import Layout
from sfvm.bundle.loader import Loader, make
from sfvm.bundle.sysprep import fstab, sysprep
from sfvm.cancellation import Cancellation
from sfvm.config import Settings
from sfvm.errors import BundleError
from sfvm.events import Listener, Output
from sfvm.guest import CommandFailed
from sfvm.repository import Manifest, Repository

TAR_MARGIN = 64 << 20
ERASABLE = "cluster_size=128k,extended_l2=on"
"""How the file is made in which freed blocks become zero: with subclusters of 4 KiB, a file system's blocks, so that
nothing stays of files that are gone (keys, seeds), not even where a cluster of the node also holds files that stay.
Clusters of 4 KiB do that too, and have sixteen times the metadata."""


@dataclass(frozen=True)
class Finished:
    """The pieces of a disk: the node's *filesystem* as an overlay, and the *loader*."""

    filesystem: Path
    loader: Loader


@contextmanager
def _running(
    drives: list[Drive], name: str, settings: Settings, listener: Listener, stop: Cancellation
) -> Iterator[Appliance]:
    stop.check()
    image = appliance_image.ensure(settings.cache, listener)
    shape = Shape(memory=settings.memory, cpus=settings.cpus, network=False)
    with launch(
        image, drives, shape, settings, log=lambda line: listener(Output(name, line)), listener=listener, node=name
    ) as appliance:
        try:
            with stop.killing(appliance.kill):
                yield appliance
        except CommandFailed as error:
            raise BundleError(
                "preparing the bundle failed in the appliance",
                node=name,
                why=str(error),
                detail=error.output,
                hint="sfvm verify checks the node",
            ) from error


def _overlay(path: Path, backing: Path) -> Path:
    """An overlay at *path* to work on and throw away."""
    qcow2.qemu_img("create", "-q", "-f", "qcow2", "-o", ERASABLE, "-b", backing.absolute(), "-F", "qcow2", path)
    return path


def finish(
    name: str,
    manifest: Manifest,
    layout: Layout,
    work: Path,
    repository: Repository,
    settings: Settings,
    listener: Listener,
    stop: Cancellation,
) -> Finished:
    """Make the node bootable from a disk of *layout*; files go to *work*.

    :raises BundleError: the node cannot be what the layout asks for
    :raises Cancelled: *stop* asks for it
    """
    overlay = _overlay(work / "finish.qcow2", repository.backing(manifest.key, stop=stop))
    root_uuid, esp_id = str(uuid.uuid4()), uuid.uuid4().hex[:8].upper()
    with ThreadPoolExecutor(1) as pool:
        loader = pool.submit(make, layout, root_uuid, esp_id, work)
        with _running([Drive(overlay)], name, settings, listener, stop) as appliance:
            _rename(appliance, manifest.filesystem, root_uuid)
            appliance.mount()
            guest = appliance.guest
            sysprep(guest)
            entries = [(f"UUID={root_uuid}", "/", manifest.filesystem, "defaults", _pass(manifest.filesystem))]
            if layout.esp:
                guest.directory("/boot/efi")
                entries.append((f"UUID={esp_id[:4]}-{esp_id[4:]}", "/boot/efi", "vfat", "umask=0077,nofail", 2))
            before = guest.read("/etc/fstab").decode() if guest.exists("/etc/fstab") else ""
            guest.write("/etc/fstab", fstab(before, tuple(entries)).encode())
            if grub.platforms(layout):
                _configure(appliance, manifest, layout, root_uuid)
            appliance.erase()
            appliance.unmount()
        return Finished(overlay, loader.result())


def _pass(filesystem: str) -> int:
    """fsck's turn in fstab(5): xfs and btrfs check themselves when they are mounted."""
    return 1 if filesystem.startswith("ext") else 0


def _rename(appliance: Appliance, filesystem: str, identifier: str) -> None:
    """Give the unmounted filesystem a fresh UUID."""
    device = appliance.device(0)
    scripts = {
        # tune2fs rewrites the checksums that the UUID goes into, and wants a checked filesystem for that. This one was
        # checked or made when its root node began, and only our kernel has written to it. If that has found anything
        # wrong, tune2fs refuses it all the same.
        "ext4": f"tune2fs -T now -U {identifier} {device} >/dev/null || {{\n"
        f"  e2fsck -fy {device} >/dev/null || [ $? -le 1 ]\n  tune2fs -U {identifier} {device} >/dev/null\n}}",
        "xfs": f"xfs_admin -U {identifier} {device} >/dev/null",
        "btrfs": f"btrfstune -f -U {identifier} {device} >/dev/null",
    }
    appliance.tool(scripts[filesystem])


def _configure(appliance: Appliance, manifest: Manifest, layout: Layout, root_uuid: str) -> None:
    guest = appliance.guest
    names = guest.names("/boot")
    if not grub.kernels(names):
        raise BundleError(
            f"node {manifest.name} has no kernel, so the disk could not boot",
            place=layout.place,
            why="/boot has no vmlinuz-*",
            hint="install a kernel in the node, or make a disk without a boot loader: --set boot=none",
        )
    title = manifest.facts.get("distribution", "") or "Linux"
    text = grub.configuration(root_uuid, names, title, layout.consoles, layout.arguments, layout.timeout)
    guest.write("/boot/grub/grub.cfg", text.encode())
    if guest.exists("/etc/default/grub.d") or guest.exists("/usr/sbin/update-grub"):
        defaults = grub.defaults(layout.consoles, layout.arguments, layout.timeout)
        guest.write("/etc/default/grub.d/sfvm.cfg", defaults.encode())


def archive(
    name: str,
    manifest: Manifest,
    work: Path,
    repository: Repository,
    settings: Settings,
    listener: Listener,
    stop: Cancellation,
) -> Path:
    """The node's files, prepared like any bundle, as an uncompressed tar below *work*.

    GNU tar writes the users of ACLs by name where it can, so it runs where no number has one. It writes to a raw drive
    as large as the node could need; the byte count says where the archive ends.

    :raises Cancelled: *stop* asks for it
    """
    overlay, stream = _overlay(work / "files.qcow2", repository.backing(manifest.key, stop=stop)), work / "files.tar"
    with stream.open("xb") as file:
        file.truncate(manifest.disk * 2 + TAR_MARGIN)  # sparse; tar adds a header to every file
    with _running([Drive(overlay), Drive(stream, "raw")], name, settings, listener, stop) as appliance:
        appliance.mount()
        sysprep(appliance.guest)
        count = appliance.run(_tar_script(appliance.device(1)))
    with stream.open("r+b") as file:
        file.truncate(int(count))
    return stream


def _tar_script(device: str) -> str:
    return (
        "for names in passwd group; do\n  : >>/etc/$names\n  mount --bind /dev/null /etc/$names\ndone\n"
        "set -o pipefail\n"
        "tar --create --directory=/sysroot --numeric-owner --sort=name --one-file-system "
        "--xattrs --xattrs-include='*' --acls --exclude=./lost+found --format=posix "
        "--pax-option=delete=atime,delete=ctime . "
        f"| tee {device} | wc -c\n"
        f"sync {device}"  # an error of writing comes to light here
    )
