"""What bundling changes in the guest, once per node and layout, on an overlay of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from sfvm.appliance.machine import Appliance, Drive
from sfvm.bundle import kernel as kernels
from sfvm.bundle.disk import containers, efi, extlinux, grub, verity
from sfvm.bundle.disk.layout import CONTAINERS, Layout
from sfvm.bundle.disk.loader import make
from sfvm.bundle.disk.names import Names
from sfvm.bundle.disk.parts import made, parts_script, root_hash, sizes
from sfvm.bundle.finished import (
    BOOT_IMAGE,
    FILESYSTEM,
    INITRD,
    VMLINUZ,
    Finished,
    kept,
    kept_already,
    part_file,
)
from sfvm.bundle.stage import Unfit
from sfvm.bundle.sysprep import crypttab, fstab
from sfvm.bundle.workshop import Workshop, epoch, identity, kernel_of, overlay_of, prepare
from sfvm.errors import BundleError
from sfvm.events import Notice
from sfvm.guest import Command, Guest
from sfvm.repository import Manifest

VERSION = 7
"""Raised when finishing makes something else: what was kept before is made anew."""
WORK = "/run/sfvm/bundle"
"""Where the appliance works, in its own memory."""
SECRETS = "/run/sfvm/secrets"
"""Where its secrets are, likewise."""
MOST_OVERHEAD = 1 << 30
"""Bytes of a filesystem beside files as large as the node."""
PROGRAM = "program.efi"


def finish(name: str, manifest: Manifest, layout: Layout, kernel: bool, shop: Workshop, work: Path) -> Finished:
    """Make the node bootable from a disk of *layout*, or find what was made before; *kernel* asks for its kernel, too.
    What is made with a secret is not kept, but below *work*: it would be another's, under another passphrase.

    :raises BundleError: the node cannot be what the layout asks for
    :raises Cancelled: the workshop is to stop
    """

    def digest(kernel: bool) -> str:
        wanted = {
            "version": VERSION,
            "origin": manifest.origin,
            "layout": layout.finishing(),
            "kernel": kernel,
            "epoch": epoch(manifest),
        }
        return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()

    if layout.secrets:
        directory = work / "finished"
        directory.mkdir()
        return _Finishing(name, manifest, layout, directory, shop).run(kernel)
    if not kernel and (more := kept_already(shop.repository, manifest.key, digest(True))) is not None:
        return more

    def make(directory: Path) -> Finished:
        return _Finishing(name, manifest, layout, directory, shop).run(kernel)

    def waiting() -> None:
        shop.listener(Notice("another bundle makes the node ready for this layout; waiting for it", node=name))

    return kept(shop.repository, manifest.key, digest(kernel), make, shop.stop, waiting)


@dataclass(frozen=True)
class _Finishing:
    """One node made ready for one layout, into *directory*."""

    name: str
    manifest: Manifest
    layout: Layout
    directory: Path
    shop: Workshop

    def run(self, kernel: bool) -> Finished:
        backing = self.shop.repository.backing(self.manifest.key, stop=self.shop.stop)
        overlay = overlay_of(self.directory / FILESYSTEM, backing, relative=not self.layout.secrets)
        drives = [Drive(overlay)]
        size, kind = self.manifest.disk, self.manifest.filesystem
        own = tuple(number for number, part in enumerate(self.layout.parts) if made(part, size, kind))
        drives += [Drive(self._part(number), "raw") for number in own]
        unique = uuid.uuid5(identity(self.manifest.key), json.dumps(self.layout.finishing(), sort_keys=True))
        time = epoch(self.manifest)
        names = Names(self.layout, kind, own, unique, identity(self.manifest.key))
        root, alone = names.root, self.layout.boot.loader in efi.LOADERS
        load = functools.partial(make, self.layout, names.home, names.esp, time, self.directory)
        with (
            ThreadPoolExecutor(1) as pool,
            self.shop.running(drives, self.name) as appliance,
        ):
            loader = None if alone else pool.submit(load)
            for secret in self.layout.secrets:
                appliance.secret(f"{SECRETS}/{secret}", self.shop.secrets[secret].value)
            if not root.made:
                _rename(appliance, self.manifest.filesystem, root.uuid)
            prepare(appliance, self.manifest)
            guest = appliance.guest
            entries = names.entries()
            for _, point, *_ in entries[1:]:
                if point.startswith("/"):
                    guest.directory(point)
            _change(guest, "/etc/fstab", lambda before: fstab(before, tuple(entries)))
            if names.locked:
                _change(guest, "/etc/crypttab", lambda before: crypttab(before, names.locked))
            files = guest.names("/boot")
            words = grub.arguments(self.layout.boot.consoles, self.layout.boot.arguments)
            if self.layout.root.verity:
                words = f"{verity.arguments(verity.UNKNOWN)} {words}"
            arguments = " ".join(f"root={root.source} ro {names.unlocking} {words}".split())
            if self.layout.boot.loader != "none":
                self._configure(appliance, files, arguments, names.home)
            program = self._extlinux(guest)
            known = kernel_of(appliance, files, self.directory) if kernel or alone else None
            system = self._system(guest, known, arguments) if alone and known else None
            found: dict[int, int] = {}
            hashed = ""
            if own:
                devices = {number: appliance.device(index) for index, number in enumerate(own, 1)}
                script = parts_script(self.layout, devices, unique, WORK, kind, size, time, program, SECRETS)
                said = appliance.run(script)
                found, hashed = sizes(said, self.layout), root_hash(said)
            if program and self.layout.boot_part is None and not root.made:
                guest.capture(Command(f"{program} --install {extlinux.home(self.layout.root)}", network=False))
            if not root.made:
                appliance.erase()
            appliance.unmount()
            if loader is not None:
                loader.result()
        for number, needed in found.items():
            os.truncate(part_file(self.directory, number), needed)
        for number, part in enumerate(self.layout.parts):
            if part.kind == "verity":
                data = part_file(self.directory, number - 1).stat().st_size
                os.truncate(part_file(self.directory, number), verity.hashes_size(data))
        arguments = arguments.replace(verity.UNKNOWN, hashed)
        if system is not None:
            load(replace(system, arguments=arguments))
            (self.directory / PROGRAM).unlink(missing_ok=True)
        return Finished(self.directory, root.uuid, arguments, known, hashed)

    def _part(self, number: int) -> Path:
        """The file of a part that the appliance makes; as large as it could become, if that shows there."""
        part, node = self.layout.parts[number], self.manifest.disk
        if part.kind == "verity":
            part = self.layout.parts[number - 1]  # more than enough
        size = containers.size(self.layout, number, node) if part.kind in CONTAINERS else part.bytes(node)
        path = part_file(self.directory, number)
        with path.open("xb") as file:
            file.truncate(size if size is not None else node + (part.size or 0) + MOST_OVERHEAD)
        return path

    def _configure(self, appliance: Appliance, names: Sequence[str], arguments: str, home: grub.Home) -> None:
        """:raises Unfit: there is no kernel to boot"""
        guest, boot = appliance.guest, self.layout.boot
        if not grub.kernels(names):
            raise Unfit(
                f"node {self.manifest.name} has no kernel, so the disk could not boot",
                place=self.layout.place,
                why="/boot has no vmlinuz-*",
                hint="install a kernel in the node, or make a disk without a boot loader: --set boot=none",
            )
        if boot.loader in efi.LOADERS:
            # So that kernel-install(8) of the guest goes on as we began.
            if guest.exists("/usr/bin/kernel-install") and not self.layout.root.verity:
                guest.write("/etc/kernel/cmdline", f"{arguments}\n".encode())
                guest.write("/etc/kernel/entry-token", f"{efi.token(_release(guest))}\n".encode())
            return
        title = self.manifest.facts.get("distribution", "") or "Linux"
        if boot.loader == extlinux.NAME:
            text = extlinux.configuration(home.directory, names, title, boot.consoles, arguments, boot.timeout)
            guest.write(f"/boot/{extlinux.DIRECTORY}/extlinux.conf", text.encode())
            return
        text = grub.configuration(home, names, title, boot.consoles, arguments, boot.timeout)
        guest.write("/boot/grub/grub.cfg", text.encode())
        if guest.exists("/etc/default/grub.d") or guest.exists("/usr/sbin/update-grub"):
            defaults = grub.defaults(boot.consoles, boot.arguments, boot.timeout)
            guest.write("/etc/default/grub.d/sfvm.cfg", defaults.encode())

    def _extlinux(self, guest: Guest) -> str:
        """The path of the guest's extlinux, whose code for the first sector is kept; "" where it is not wanted.

        :raises Unfit: the guest has none
        """
        if self.layout.boot.loader != extlinux.NAME:
            return ""
        names = [f"{home}/{extlinux.CODE[self.layout.table]}" for home in extlinux.HOMES if self.layout.table != "none"]
        program, code = (next(filter(guest.exists, paths), "") for paths in (extlinux.PROGRAMS, names))
        if not program or (names and not code):
            raise Unfit(
                f"node {self.manifest.name} has no {'extlinux' if not program else extlinux.CODE[self.layout.table]}",
                place=self.layout.place,
                why="the boot loader is the guest's own",
                hint='<packages install="extlinux"/> (Debian); syslinux-extlinux and syslinux-nonlinux (Fedora)',
            )
        if code:
            (self.directory / BOOT_IMAGE).write_bytes(guest.read(code))
        return program

    def _system(self, guest: Guest, kernel: kernels.Kernel, arguments: str) -> efi.System:
        """What a loader starts that reads the EFI system partition alone."""
        program = Path(efi.HOME, efi.PROGRAM[self.layout.boot.loader])
        if guest.exists(str(program)):
            with (self.directory / PROGRAM).open("xb") as file:
                guest.download(str(program), file)
            program = self.directory / PROGRAM
        elif not program.exists():
            raise BundleError(
                f"there is no {program.name}",
                place=self.layout.place,
                why=f"neither the guest nor this machine has {program}",
                hint="./bootstrap installs it (systemd-boot-efi, systemd-boot-unsigned), or install it in the node",
            )
        initrd = self.directory / INITRD
        files = (self.directory / VMLINUZ, initrd if initrd.exists() else None)
        return efi.System(kernel.version, *files, arguments, _release(guest), program)


def _change(guest: Guest, path: str, change: Callable[[str], str]) -> None:
    """Change a text file of the guest, which may not be there. Its encoding is the guest's affair."""
    before = guest.read(path).decode("utf-8", "surrogateescape") if guest.exists(path) else ""
    guest.write(path, change(before).encode("utf-8", "surrogateescape"))


def _release(guest: Guest) -> str:
    """os-release(5)."""
    paths = ("/etc/os-release", "/usr/lib/os-release")
    found = next((guest.read(path) for path in paths if guest.exists(path)), b"")
    return found.decode("utf-8", errors="replace")


def _rename(appliance: Appliance, filesystem: str, unique: str) -> None:
    """Give the unmounted filesystem another UUID."""
    device = appliance.device(0)
    scripts = {
        # tune2fs rewrites the checksums that the UUID goes into, and wants a checked filesystem for that. This one was
        # checked or made when its root node began, and only our kernel has written to it. If that has found anything
        # wrong, tune2fs refuses it all the same.
        "ext4": f"tune2fs -T now -U {unique} {device} >/dev/null || {{\n"
        f"  e2fsck -fy {device} >/dev/null || [ $? -le 1 ]\n  tune2fs -U {unique} {device} >/dev/null\n}}",
        "xfs": f"xfs_admin -U {unique} {device} >/dev/null",
        "btrfs": f"btrfstune -f -U {unique} {device} >/dev/null",
    }
    appliance.tool(scripts[filesystem])
