"""What bundling changes in the guest, once per node and layout, on an overlay of its own that is thrown away after."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sfvm import qcow2
from sfvm.appliance import image as appliance_image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.bundle import grub
from sfvm.bundle.layout import Layout
from sfvm.bundle.sysprep import fstab, sysprep
from sfvm.cancellation import Cancellation
from sfvm.config import Settings
from sfvm.errors import BundleError
from sfvm.events import Listener, Output
from sfvm.guest import Command, CommandFailed
from sfvm.repository import Manifest, Repository

WORK = "/run/sfvm/bundle"
"""Where the appliance works, in its own memory."""
TAR_MARGIN = 64 << 20
BLOCK = "4k"
"""The cluster size of what is thrown away after: as a file system's blocks, so that a trim leaves nothing of files that
are gone (keys, seeds), not even where a cluster of the node also holds files that stay."""


@dataclass(frozen=True)
class Finished:
    """The pieces of a disk: the node's *filesystem* as an overlay, the *esp* as a raw file, GRUB's images for BIOS."""

    filesystem: Path
    esp: Path | None
    boot_image: bytes
    core_image: bytes


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
    qcow2.qemu_img(
        "create", "-q", "-f", "qcow2", "-o", f"cluster_size={BLOCK}", "-b", backing.absolute(), "-F", "qcow2", path
    )
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
    drives = [Drive(overlay)]
    esp = work / "esp.img" if layout.esp else None
    if esp is not None and layout.esp:
        with esp.open("xb") as file:
            file.truncate(layout.esp)
        drives.append(Drive(esp, "raw"))
    root_uuid = str(uuid.uuid4())
    esp_id = uuid.uuid4().hex[:8].upper()
    with _running(drives, name, settings, listener, stop) as appliance:
        _rename(appliance, manifest.filesystem, root_uuid)
        appliance.mount()
        guest = appliance.guest
        sysprep(guest)
        entries = [(f"UUID={root_uuid}", "/", manifest.filesystem, "defaults", _pass(manifest.filesystem))]
        if esp is not None:
            guest.directory("/boot/efi")
            entries.append((f"UUID={esp_id[:4]}-{esp_id[4:]}", "/boot/efi", "vfat", "umask=0077,nofail", 2))
        before = guest.read("/etc/fstab").decode() if guest.exists("/etc/fstab") else ""
        guest.write("/etc/fstab", fstab(before, tuple(entries)).encode())
        platforms = _platforms(layout)
        if platforms:
            _configure(appliance, manifest, layout, root_uuid)
        # One script: every command costs a noticeable time without KVM.
        script = [f"mkdir -p {WORK}", *grub.images(root_uuid, WORK, platforms)]
        if esp is not None:
            script += _esp_script(appliance.device(1), esp_id)
        # An error of writing comes to light here; freed blocks can be trimmed once that is committed.
        script.append("sync --file-system /sysroot")
        if grub.BIOS in platforms:
            script += [f"base64 -w 0 {WORK}/{image}; echo" for image in ("boot.img", "core.img")]
        images = [base64.b64decode(line) for line in appliance.run("\n".join(script)).splitlines()]
        appliance.trim()
        appliance.unmount()
    boot_image, core_image = images or (b"", b"")
    return Finished(overlay, esp, boot_image, core_image)


def _esp_script(device: str, identifier: str) -> list[str]:
    """Makes the EFI system partition on *device*, with GRUB where it was made."""
    return [
        f"mkfs.vfat -F 32 -n ESP -i {identifier} {device} >/dev/null",
        f"mkdir -p {WORK}/esp",
        f"mount -t vfat {device} {WORK}/esp",
        f"if [ -e {WORK}/BOOTX64.EFI ]; then",
        f"  mkdir -p {WORK}/esp/EFI/BOOT && cp {WORK}/BOOTX64.EFI {WORK}/esp/EFI/BOOT/",
        "fi",
        f"umount {WORK}/esp",
        f"sync {device}",
    ]


def _pass(filesystem: str) -> int:
    """fsck's turn in fstab(5): xfs and btrfs check themselves when they are mounted."""
    return 1 if filesystem.startswith("ext") else 0


def _platforms(layout: Layout) -> tuple[str, ...]:
    """GRUB's platforms that the disk can boot by."""
    if layout.loader != "grub":
        return ()
    return (*([grub.BIOS] if layout.bios_boot else []), *([grub.UEFI] if layout.esp else []))


def _rename(appliance: Appliance, filesystem: str, identifier: str) -> None:
    """Give the unmounted filesystem a fresh UUID."""
    device = appliance.device(0)
    scripts = {
        # tune2fs rewrites checksums that the UUID goes into, and wants a checked filesystem for that.
        "ext4": f"e2fsck -fy {device} >/dev/null || [ $? -le 1 ]\ntune2fs -U {identifier} {device} >/dev/null",
        "xfs": f"xfs_admin -U {identifier} {device} >/dev/null",
        "btrfs": f"btrfstune -f -U {identifier} {device} >/dev/null",
    }
    appliance.run(scripts[filesystem])


def _configure(appliance: Appliance, manifest: Manifest, layout: Layout, root_uuid: str) -> None:
    guest = appliance.guest
    names = guest.capture(
        Command("ls -1 /sysroot/boot 2>/dev/null || true", place="appliance", network=False)
    ).splitlines()
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
