"""What the filesystems of a disk are known by: to the kernel, to fstab(5), to GRUB. Arithmetic."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from sfvm.bundle.disk import containers, verity
from sfvm.bundle.disk.compose import partition_uuid
from sfvm.bundle.disk.grub import Home
from sfvm.bundle.disk.layout import Layout
from sfvm.bundle.disk.parts import Volume, identifier, volumes

Entry = tuple[str, str, str, str, int]
"""Device, mount point, type, options, turn of fsck(8): 0 is never."""


@dataclass(frozen=True)
class Root:
    """The root filesystem: its *uuid* ("" if it has none), the *source* that fstab and the kernel know it by, its type;
    whether it is *made*, not the node's own."""

    uuid: str
    source: str
    filesystem: str
    made: bool = False


@dataclass(frozen=True)
class Names:
    """Of a disk of *layout* with the node *node*, whose filesystem is of the type *filesystem*. The partitions *own*
    are made in the appliance. The identifiers of filesystems follow from *unique*, those of partitions from *node*."""

    layout: Layout
    filesystem: str
    own: tuple[int, ...]
    unique: uuid.UUID
    node: uuid.UUID

    @property
    def volumes(self) -> tuple[Volume, ...]:
        return tuple(volumes(self.layout, dict.fromkeys(self.own, "")))

    @property
    def root(self) -> Root:
        for volume in self.volumes:
            if volume.part.kind == "root":
                kind = volume.part.filesystem or self.filesystem
                source = verity.DEVICE if volume.part.verity else volume.name or self._device(volume)
                return Root(identifier(volume, self.unique), source, kind, made=True)
        unique = str(uuid.uuid5(self.unique, "root"))
        return Root(unique, f"UUID={unique}", self.filesystem)

    @property
    def locked(self) -> dict[str, str]:
        """What LUKS opens, by name: the identifier of the partition that it is in."""
        parts = enumerate(self.layout.parts)
        return {part.name: str(containers.luks_uuid(number, self.unique)) for number, part in parts if part.secret}

    @property
    def unlocking(self) -> str:
        """The kernel's arguments for an initramfs that is to open the root: Debian's initramfs-tools (cryptopts;
        README.initramfs of its cryptsetup) and systemd or dracut (rd.luks.name, systemd-cryptsetup-generator(8))."""
        root = next((part for part in self.layout.parts if part.secret and self.layout.root in part.parts), None)
        if root is None:
            return ""
        own = self.locked[root.name]
        return f"cryptopts=target={root.name},source=UUID={own},luks rd.luks.name={own}={root.name}"

    @property
    def home(self) -> Home:
        """Where GRUB finds what is in /boot."""
        for volume in self.volumes:
            if volume.part is self.layout.boot_part:
                return Home(identifier(volume, self.unique), "")
        return Home(self.root.uuid)

    @property
    def esp(self) -> str:
        """The identifier of the EFI system partition: eight hexadecimal digits."""
        return uuid.uuid5(self.unique, "esp").hex[:8].upper()

    def entries(self) -> list[Entry]:
        """The lines of fstab(5). A filesystem comes after those that it is mounted in."""
        root, part = self.root, self.layout.root
        # xfs and btrfs check themselves when they are mounted.
        entries = [(root.source, "/", root.filesystem, part.options, 1 if root.filesystem.startswith("ext") else 0)]
        entries += [(root.source, path, "btrfs", f"subvol={path}", 0) for path in part.subvolumes]
        for volume in self.volumes:
            part = volume.part
            if part.kind != "root" and part.mount:
                turn = 2 if part.filesystem in ("ext4", "vfat") else 0
                entries.append((self._device(volume), part.mount, part.filesystem, part.options, turn))
        if (esp := self.layout.part("esp")) is not None:
            name = f"UUID={self.esp[:4]}-{self.esp[4:]}"
            entries.append((name, esp.mount, esp.filesystem, esp.options, 2))
        return entries

    def _device(self, volume: Volume) -> str:
        if unique := identifier(volume, self.unique):
            return f"UUID={unique}"
        return f"PARTUUID={partition_uuid(self.layout, int(volume.number), self.node)}"
