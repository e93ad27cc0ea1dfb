"""What stands on the partitions beside the root: scripts for the appliance, each part being a drive of its own."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Mapping

from sfvm.bundle.disk.layout import Layout, Part


def content(part: Part) -> bool:
    """Whether the appliance makes what is on this part."""
    return part.kind in ("swap", "data")


def identifier(part: Part, unique: uuid.UUID) -> str:
    """What ``UUID=`` in fstab(5) names the part by: for FAT it is short."""
    return f"{unique.hex[:4]}-{unique.hex[4:8]}".upper() if part.filesystem == "vfat" else str(unique)


def parts_script(layout: Layout, devices: Mapping[int, str], unique: uuid.UUID, work: str) -> list[str]:
    """Lines that make the parts of *layout* on *devices* (by number); the guest's files are in /sysroot, and what is
    below a part's mount point goes there. Identifiers follow from *unique*, as :func:`identifier` has them."""
    script = []
    # The deepest first: what is on /srv/www has gone when /srv is looked at.
    for number in sorted(devices, key=lambda number: layout.parts[number].mount, reverse=True):
        part, device = layout.parts[number], devices[number]
        script += _make(part, device, uuid.uuid5(unique, str(number)))
        if part.mount.startswith("/"):
            script += _move(part, device, f"{work}/part-{number}")
        script.append(f"sync {device}")
    return script


def _make(part: Part, device: str, unique: uuid.UUID) -> list[str]:
    name = identifier(part, unique)
    if part.filesystem == "vfat":
        return [f"mkfs.vfat -F 32 -i {name.replace('-', '')} {device} >/dev/null"]
    return {
        "swap": [f"mkswap -q -U {name} {device} >/dev/null"],
        "ext4": [f"mke2fs -q -t ext4 -F -U {name} -O ^metadata_csum_seed,^orphan_file {device} 2>/dev/null || "
                 f"mke2fs -q -t ext4 -F -U {name} {device}"],
        "xfs": [f"mkfs.xfs -q -f -m uuid={name} {device}"],
        "btrfs": [f"mkfs.btrfs -q -f -U {name} {device}"],
    }[part.filesystem]  # fmt: skip


def _move(part: Part, device: str, point: str) -> list[str]:
    source = shlex.quote(f"/sysroot{part.mount}")
    return [
        f"mkdir -p {point}",
        f"mount -t {part.filesystem} {device} {point}",
        f"cp -a --one-file-system {source}/. {point}/",
        f"find {source} -xdev -mindepth 1 -delete",
        f"umount {point}",
    ]
