"""What other parts can be in: LVM's groups, plain and thin, RAID 1, and LUKS2. Lines of shell for the appliance, which
open every container before anything is put into it, and close it at the end. There is no udev there, so LVM and
cryptsetup are told not to wait for it. lvcreate(8), lvmthin(7), mdadm(8), md(4), cryptsetup-luksFormat(8).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from sfvm.bundle.disk.layout import MIB, Layout, Part

EXTENT = 4 * MIB
LVM_OVERHEAD = 2 * EXTENT
"""Bytes of a physical volume that are no extents, and what rounding takes."""
RAID_OVERHEAD = 4 * MIB
"""Bytes of a member before its data (see ``--data-offset``) and after."""
LUKS_HEADER = 16 * MIB
"""Bytes before the data, as cryptsetup has it."""
LUKS = (
    f"--type luks2 --offset {LUKS_HEADER // 512} --cipher aes-xts-plain64 --key-size 512 --hash sha256 "
    "--pbkdf argon2id --pbkdf-memory 65536 --pbkdf-parallel 1 --pbkdf-force-iterations 4"
)
"""How a passphrase is stretched is fixed, for a helper VM without KVM would measure itself and choose less:
64 MiB, RFC 9106's choice for little memory, in 4 passes, the fewest that cryptsetup makes, on one lane, as it takes no
more lanes than there are CPUs."""
LVM = """lvm() {
    /usr/sbin/lvm "$@" --config 'activation { udev_sync=0 udev_rules=0 }' >$work/lvm 2>&1 && return
    cat $work/lvm >&2
    exit 1
}"""


def size(layout: Layout, number: int, node: int) -> int:
    """The bytes of the partition *number*, which is a container: as it says, else as large as what is in it. *node* is
    the size of the node."""
    part = layout.parts[number]
    if part.kind == "raid":
        mirrored = part if part.parts else layout.parts[number - 1]
        return _up(mirrored.parts[0].bytes(node) or 0, MIB) + RAID_OVERHEAD
    if part.kind == "luks":
        return _up(part.parts[0].bytes(node) or 0, MIB) + LUKS_HEADER
    if (said := part.bytes(node)) is not None:
        return said
    inner = sum(_up(child.bytes(node) or 0, EXTENT) for child in part.parts)
    if part.pool:
        inner += _up(inner // 50, EXTENT) + 4 * EXTENT  # metadata of the pool, twice: one to repair it with
    return inner + LVM_OVERHEAD


def device(part: Part, number: int, child: Part) -> tuple[str, str]:
    """Where *child* of the container *part*, partition *number*, is in the appliance; and what it is called in the
    guest, if that is not for udev to find by its UUID: an initramfs activates a volume that it knows by its name."""
    if part.kind == "raid":
        return f"/dev/md{number}", ""
    path = f"/dev/mapper/{part.name}" if part.kind == "luks" else f"/dev/mapper/{part.name}-{child.name}"
    return path, path


def luks_uuid(number: int, unique: uuid.UUID) -> uuid.UUID:
    """The identifier of the LUKS container *number*."""
    return uuid.uuid5(unique, f"luks {number}")


def opening(layout: Layout, devices: Mapping[int, str], unique: uuid.UUID, node: int, secrets: str) -> list[str]:
    """Lines that make and open the containers on *devices*; the directory *secrets* has what the layout wants, each
    secret as a file."""
    lines = []
    for number, path in devices.items():
        part = layout.parts[number]
        if part.kind == "raid" and part.parts:
            lines += [
                f"number={number}",
                "driver raid1",
                f"mdadm --quiet --create /dev/md{number} --level=1 --raid-devices=2 --metadata=1.2 --data-offset=1M "
                f"--bitmap=none --assume-clean --run --homehost=any --name=sfvm{number} "
                f"--uuid={uuid.uuid5(unique, f'raid {number}')} {path} {devices[number + 1]}",
            ]
        elif part.kind == "luks":
            lines += [
                f"number={number}",
                "driver dm_crypt",
                "export DM_DISABLE_UDEV=1",
                f"key={secrets}/{part.secret}",
                f"cryptsetup luksFormat --batch-mode {LUKS} --uuid {luks_uuid(number, unique)} --key-file $key {path}",
                f"cryptsetup open --type luks2 --key-file $key {path} {part.name}",
            ]
        elif part.kind == "lvm":
            lines += [f"number={number}", f"driver {'dm_thin_pool' if part.pool else 'dm_mod'}"]
            lines += _group(part, path, node)
    return lines


def _group(part: Part, path: str, node: int) -> list[str]:
    lines = [
        LVM,
        f"lvm pvcreate -ff -y -Zn {path}",
        f"lvm vgcreate -y -s {EXTENT // MIB}m {part.name} {path}",
    ]
    if part.pool:
        lines.append(f"lvm lvcreate -y --type thin-pool -l 97%FREE -Zn -n {part.pool} {part.name}")
    # Those that take what is left are made at last.
    for child in sorted(part.parts, key=lambda child: child.size is None):
        size = child.bytes(node) or 0
        name = f"-n {child.name} {part.name}"
        if part.pool:
            lines.append(f"lvm lvcreate -y --type thin -V {size}b --thinpool {part.pool} {name}")
        elif child.size is None:
            lines.append(f"lvm lvcreate -y -Wn -Zn -l 100%FREE {name}")
        else:
            lines.append(f"lvm lvcreate -y -Wn -Zn -L {size}b {name}")
    return lines


def closing(layout: Layout, devices: Mapping[int, str]) -> list[str]:
    """Lines that close them, so that everything is on *devices*."""
    lines = []
    for number in devices:
        part = layout.parts[number]
        if part.kind == "raid" and part.parts:
            lines.append(f"mdadm --quiet --stop /dev/md{number}")
        elif part.kind == "luks":
            lines.append(f"cryptsetup close {part.name}")
        elif part.kind == "lvm":
            lines.append(f"lvm vgchange -an {part.name}")
    return lines


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
