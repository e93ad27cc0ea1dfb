"""What stands on the parts that are made in the appliance: scripts for it, each partition being a drive of its own."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sfvm.bundle.disk import containers, extlinux, verity
from sfvm.bundle.disk.filesystems import TYPES
from sfvm.bundle.disk.layout import CONTAINERS, MIB, Layout, Part
from sfvm.errors import BundleError

PRELUDE = r"""
[ ! -d /sysroot/dev ] || [ -L /sysroot/dev ] || mount --rbind /dev /sysroot/dev
guest() {  # what the guest's own mkfs makes is what its kernel can read
    [ -x "/sysroot/usr/sbin/$1" ] && chroot /sysroot "/usr/sbin/$1" "${@:2}" 2>/dev/null
}
own() {  # a symlink could lead out of the guest
    [ "$(realpath "$1")" = "$1" ] && return
    echo "${1#/sysroot} of the guest is a symlink, or below one: nothing can be mounted there" >&2
    exit 1
}
small() { echo "small $number $1"; exit 0; }
driver() {
    modprobe -q "$1" || grep -qw "$1" /proc/filesystems || { echo "driver $number $1"; exit 0; }
}
used() { du --summarize --one-file-system --block-size=1 "$1" | cut -f1; }
up() { echo $((($1 + 1048575) / 1048576 * 1048576)); }
copy() {
    cp -a --one-file-system "$1/." "$2/" 2>"$work/errors" && sync --file-system "$2" && return
    grep -q 'No space left' "$work/errors" && small $((size + size / 4))
    head -n 5 "$work/errors" >&2
    exit 1
}
extlinux() {  # $1, the guest's own program, onto the filesystem that is mounted at $2, into its directory $3
    own /sysroot/boot && mkdir -p "$2$3" && mount --bind "$2" /sysroot/boot
    mount -t proc proc /sysroot/proc && mount -t sysfs sysfs /sysroot/sys  # it looks for its device there
    chroot /sysroot "$1" --install "/boot$3" >"$work/errors" 2>&1 || { cat "$work/errors" >&2; exit 1; }
    umount /sysroot/sys /sysroot/proc /sysroot/boot
}
"""
"""What the lines of the parts use; ``number`` is the part's."""


@dataclass(frozen=True)
class Volume:
    """A part that has a filesystem or is swap: its *number* (``2``, or ``2.0`` in a container), the *device* that it is
    in the appliance, and the one that the guest knows it by, if not by its UUID."""

    part: Part
    number: str
    device: str
    name: str = ""


def made(part: Part, node: int, filesystem: str) -> bool:
    """Whether the appliance makes this partition: all but those that the host makes, and a root that is the node's
    filesystem as it is. *node* is its size in bytes, *filesystem* its type."""
    if part.kind != "root":
        return part.kind in ("swap", "data", "verity", *CONTAINERS)
    size, copied = part.bytes(node), bool(part.subvolumes) or part.verity
    return part.filesystem not in ("", filesystem) or copied or size is None or size < node


def table_kind(part: Part) -> str:
    """The kind of partition that *part* is in a partition table."""
    return "boot" if part.kind == "data" and part.mount == "/boot" else part.kind


def volumes(layout: Layout, devices: Mapping[int, str]) -> Iterator[Volume]:
    """The volumes on the partitions *devices* (by number), also those in containers."""
    for number, device in devices.items():
        part = layout.parts[number]
        if part.kind not in (*CONTAINERS, "verity"):
            yield Volume(part, str(number), device)
        for inner, child in enumerate(part.parts):
            path, name = containers.device(part, number, child)
            yield Volume(child, f"{number}.{inner}", path, name)


def identifier(volume: Volume, unique: uuid.UUID) -> str:
    """What ``UUID=`` in fstab(5) names the volume by: for FAT it is short. "" where a filesystem has none."""
    own = uuid.uuid5(unique, volume.number)
    kind = volume.part.filesystem
    if kind == "vfat":
        return f"{own.hex[:4]}-{own.hex[4:8]}".upper()
    return "" if kind in TYPES and not TYPES[kind].uuid else str(own)


def parts_script(
    layout: Layout,
    devices: Mapping[int, str],
    unique: uuid.UUID,
    work: str,
    kind: str,
    node: int,
    epoch: int,
    loader: str = "",
    secrets: str = "",
) -> str:
    """A script that makes the parts of *layout* on *devices* (by number). The guest's files are in /sysroot, and what
    is below a part's mount point goes there. Identifiers follow from *unique*; *kind* and *node* are type and size, in
    bytes, of the node's filesystem, *epoch* the time of images; *loader* is the path of its extlinux, *secrets* the
    directory of the secrets. It prints what :func:`sizes` and :func:`root_hash` read."""
    lines = [
        f"work={work} epoch={epoch}",
        "mkdir -p $work",
        PRELUDE,
        *containers.opening(layout, devices, unique, node, secrets),
    ]
    # The deepest first: what is on /srv/www has gone when /srv is looked at; the root gets what is left.
    found = sorted(volumes(layout, devices), key=lambda volume: volume.part.mount, reverse=True)
    for volume in found:
        starts = volume.part is extlinux.part(layout)
        lines += _volume(volume, identifier(volume, unique), kind, loader if starts else "")
        if volume.part.verity:
            lines += _hashes(devices[int(volume.number) + 1], unique)
    if any(volume.part.verity for volume in found):
        lines += [line for volume in found if volume.part is layout.boot_part for line in _told(volume)]
    return "\n".join([*lines, *containers.closing(layout, devices), *(f"sync {path}" for path in devices.values())])


def sizes(said: str, layout: Layout) -> dict[int, int]:
    """The sizes in bytes of those partitions, by number, that are as large as their content wants.

    :raises BundleError: a part is too small for what is to be on it
    """
    found = {}
    for line in said.splitlines():
        match line.split():
            case ["size", number, size]:
                found[int(number)] = int(size)
            case ["small", number, need]:
                part, least = _numbered(layout, number), -(-int(need) // MIB)
                raise BundleError(
                    f"the part for {part.mount} is too small",
                    place=part.place,
                    why=f"what is to be on it needs about {least} MiB",
                    hint=f'size="{least}M" or more, or size="+100M": what it needs and 100 MiB more',
                )
            case ["driver", number, module]:
                raise BundleError(
                    f"the helper VM's kernel has no {module}",
                    place=_numbered(layout, number).place,
                    why="its kernel is this machine's, if users may read that, else a small one",
                    hint="install a kernel that has it where sfvm runs: linux-image-amd64, /boot/vmlinuz-* readable",
                )
    return found


def root_hash(said: str) -> str:
    """The root hash of dm-verity that the script has printed; "" when it has made none."""
    return next((line.split()[1] for line in said.splitlines() if line.startswith("roothash ")), "")


def _numbered(layout: Layout, number: str) -> Part:
    """The part that a :class:`Volume` calls *number*."""
    outer, _, inner = number.partition(".")
    part = layout.parts[int(outer)]
    return part.parts[int(inner)] if inner else part


def _volume(volume: Volume, name: str, node_kind: str, loader: str) -> list[str]:
    part, point = volume.part, f"$work/part-{volume.number}"
    # Small ones would get smaller blocks, which dm-verity's are not.
    blocks = f"'-b {verity.BLOCK}'" if part.verity else ""
    lines = [f"number={volume.number} device={volume.device} uuid={name} blocks={blocks}"]
    if part.kind == "swap":
        return [*lines, "mkswap -q -U $uuid $device >/dev/null"]
    kind = TYPES[part.filesystem or node_kind]
    lines += [
        f"source={shlex.quote(f'/sysroot{part.mount}'.rstrip('/')) if part.mount.startswith('/') else ''}",
        'used=0; [ -z "$source" ] || { own "$source"; used=$(used "$source"); }',
    ]
    if kind.readonly:
        return [*lines, *_image(part, kind.make, kind.measure)]
    if part.unit == "more":
        lines.append(f"size=$(up $((used + used * {kind.percent} / 100 + {kind.margin} + {part.size or 0})))")
        lines.append(f"[ $size -ge {kind.least} ] || size={kind.least}")
        lines.append("echo size $number $size")
    else:
        lines += ["size=$(blockdev --getsize64 $device)", "[ $used -lt $size ] || small $((used + used / 4))"]
    lines.append(kind.make)
    if part.mount.startswith("/"):
        lines += [
            f"driver {kind.module}",
            f"mkdir -p {point}",
            f"mount -t {part.filesystem or node_kind} $device {point}",
        ]
        for path in part.subvolumes:
            inside = shlex.quote(path.lstrip("/"))
            lines += [f"mkdir -p $(dirname {point}/{inside})", f"btrfs subvolume create {point}/{inside} >/dev/null"]
        lines.append(f'copy "$source" {point}')
        if loader:
            lines.append(f"extlinux {loader} {point} {extlinux.home(part)}")
        lines.append(f"umount {point}")
        if part.mount != "/":
            lines.append('find "$source" -xdev -mindepth 1 -delete')
    return lines


def _image(part: Part, make: str, measure: str) -> list[str]:
    """A read-only image. POSIX ACLs, which mksquashfs does not store, must not get lost in silence."""
    lines = []
    if part.filesystem == "squashfs":
        lines.append(
            'acls=$(getfacl -R -s -p -n "$source" 2>/dev/null | grep -m 1 "^# file:" || :)\n'
            '[ -z "$acls" ] || { echo "squashfs has no ACLs, and there are some: $acls" >&2; exit 1; }'
        )
    if part.unit == "more":
        lines += [make, f"size=$(up $({measure}))", f"echo size $number $((size + {part.size or 0}))"]
    else:
        lines += ["size=$(blockdev --getsize64 $device)", f"{make} || small $((used / 2))"]
    if part.mount not in ("", "/"):
        lines.append('find "$source" -xdev -mindepth 1 -delete')
    return lines


def _hashes(device: str, unique: uuid.UUID) -> list[str]:
    """Hashes of the volume that was made last, on *device*."""
    return [
        f"veritysetup format --data-block-size={verity.BLOCK} --hash-block-size={verity.BLOCK} --hash=sha256 "
        f"--data-blocks=$((size / {verity.BLOCK})) --salt={verity.salt(unique)} "
        f"--uuid={uuid.uuid5(unique, 'verity')} $device {device} >$work/verity",
        "roothash=$(sed -n 's/^Root hash:[[:space:]]*//p' $work/verity)",
        "echo roothash $roothash",
    ]


def _told(boot: Volume) -> list[str]:
    """Write the root hash into what loaders read in /boot, which was made before the root."""
    point = f"$work/part-{boot.number}"
    return [
        f"mount -t {boot.part.filesystem} {boot.device} {point}",
        f"for file in {point}/grub/grub.cfg {point}/extlinux/extlinux.conf; do",
        f'    [ ! -f "$file" ] || sed -i "s/{verity.UNKNOWN}/$roothash/" "$file"',
        "done",
        f"umount {point}",
    ]
