"""What a disk image holds, and where its root filesystem and the filesystems that belong to it are.

A script of the appliance looks at every partition and logical volume (:func:`looking`); all that is decided is decided
here, of what it tells. Nothing that it tells is trusted: paths and options go to scripts quoted, and a filesystem is
mounted at a place only that no symlink of the image leads away from.
"""

from __future__ import annotations

import re
import shlex
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass, field

from sfvm.guest import ATTACHED

ROOT = "/run/sfvm/import"
"""Where the image is mounted, in the mount namespace of a script."""
SUBVOLUMES = ("root", "@", "@rootfs")
"""What distributions call the subvolume of btrfs that is the root, when it is not the default one."""
KINDS = ("btrfs", "ext2", "ext3", "ext4", "xfs", "f2fs", "vfat")
"""Filesystems that are mounted to look at; other signatures are told only."""
LEFT_OUT = ("/.snapshots",)
"""Mount points whose filesystems do not come along: snapshots of the others."""
OPTIONS = "ro,nodev,nosuid,noexec"

VOLUMES = f"""\
mkdir -p {ROOT}
disk=$(readlink -f {ATTACHED})
lvm() {{ /usr/sbin/lvm "$@" --config 'activation {{ udev_sync=0 udev_rules=0 }}' >/dev/null 2>&1; }}
done_with() {{
    ! mountpoint -q {ROOT} || umount -R {ROOT} || :
    [ -z "$volumes" ] || lvm vgchange -an || :
}}
trap done_with EXIT
volumes=
if blkid -p -s TYPE -o value "$disk"?* 2>/dev/null | grep -qx LVM2_member; then
    volumes=yes
    modprobe -q dm_mod || :
    lvm vgchange -ay && lvm vgscan --mknodes || :
fi
"""
"""Shell: finds the image's disk and the logical volumes on it, and lets go of them at the end."""


def looking(subvolume: str | None) -> str:
    """Shell: a line ``device PATH NUMBER`` for each, its ``tag NAME=VALUE`` as blkid(8) has them, ``unmountable``, and
    ``root SUBVOLUME FSTAB`` for each place of it that looks like a root; also the *subvolume* that was asked for."""
    subvolumes = shlex.join(dict.fromkeys([*SUBVOLUMES, *([subvolume.strip("/")] if subvolume else [])]))
    return f"""{VOLUMES}\
tell() {{
    base=$1 sub=$2
    [ -d "$base" ] && [ ! -L "$base/etc" ] && [ ! -L "$base/usr" ] || return 0
    for name in etc/os-release usr/lib/os-release etc/fstab; do
        [ -f "$base/$name" ] || [ -L "$base/$name" ] || continue
        fstab=
        [ -L "$base/etc/fstab" ] || fstab=$(head -c 65536 "$base/etc/fstab" 2>/dev/null | base64 -w 0)
        echo "root ${{sub:-.}} $fstab"
        return 0
    done
}}
look() {{
    echo "device $1 $2"
    tags=$(blkid -p -o export "$1" 2>/dev/null) || return 0
    printf '%s\\n' "$tags" | sed 's/^/tag /'
    kind=$(printf '%s\\n' "$tags" | sed -n 's/^TYPE=//p')
    case " {" ".join(KINDS)} " in *" $kind "*) ;; *) return 0 ;; esac
    mount -t "$kind" -o {OPTIONS} "$1" {ROOT} 2>/dev/null || {{ echo unmountable; return 0; }}
    tell {ROOT} ''
    umount {ROOT}
    if [ "$kind" = btrfs ] && mount -t btrfs -o {OPTIONS},subvolid=5 "$1" {ROOT} 2>/dev/null; then
        for sub in {subvolumes}; do
            [ -L {ROOT}/"$sub" ] || tell {ROOT}/"$sub" "$sub"
        done
        umount {ROOT}
    fi
}}
look "$disk" 0
for entry in /sys/block/"${{disk##*/}}"/*/partition; do
    [ -e "$entry" ] || continue
    read -r number <"$entry"
    entry=${{entry%/partition}}
    look /dev/"${{entry##*/}}" "$number"
done
[ -z "$volumes" ] || for device in /dev/mapper/*; do
    [ "$device" = /dev/mapper/control ] || look "$device" -1
done
"""


class Unclear(ValueError):
    """There is no root filesystem, or more than one; the message tells what there is."""


@dataclass
class Device:
    """A partition (*number* as Linux counts, 0: the whole disk, -1: a logical volume) with blkid's *tags*; *roots* are
    the subvolumes of it ("": as it is mounted) that look like a root, and their fstab."""

    path: str
    number: int
    tags: dict[str, str] = field(default_factory=dict)
    roots: dict[str, str] = field(default_factory=dict)
    mountable: bool = True

    @property
    def kind(self) -> str:
        return self.tags.get("TYPE", "")

    @property
    def filesystem(self) -> bool:
        """Whether it could be a root at all."""
        return self.mountable and self.kind in KINDS and self.kind != "vfat"

    def __str__(self) -> str:
        name = {0: "the whole disk", -1: self.path.rpartition("/")[2]}.get(self.number, f"partition {self.number}")
        return f"{name}: {self.kind or 'unknown'}" + ("" if self.mountable else " (cannot be mounted)")


@dataclass(frozen=True)
class Mount:
    """A filesystem of the image: *device*, its *subvolume*, and the *point* where it belongs in the guest."""

    device: Device
    subvolume: str
    point: str


def devices(text: str) -> list[Device]:
    """What :func:`looking` has told.

    :raises Unclear: that makes no sense: there was too much of it
    """
    try:
        return _devices(text)
    except (ValueError, IndexError) as error:
        raise Unclear(f"there is too much in it ({error})") from None


def _devices(text: str) -> list[Device]:
    found: list[Device] = []
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "device":
            path, _, number = rest.rpartition(" ")
            found.append(Device(path, int(number)))
        elif word == "tag":
            name, _, value = rest.partition("=")
            found[-1].tags[name] = re.sub(r"\\(.)", r"\1", value)
        elif word == "unmountable":
            found[-1].mountable = False
        elif word == "root":
            sub, _, fstab = rest.partition(" ")
            found[-1].roots["" if sub == "." else sub] = b64decode(fstab).decode("utf-8", errors="replace")
    return found


def root(found: Iterable[Device], partition: int | None, subvolume: str | None) -> tuple[Device, str]:
    """The root filesystem among *found*, and its subvolume: the one that was asked for, else the one that has an
    os-release(5) or an fstab(5), else the only one that could be it.

    :raises Unclear: it cannot be told
    """
    found = [device for device in found if partition is None or device.number == partition]
    if partition is not None and not found:
        raise Unclear(f"there is no partition {partition}")
    likely = [device for device in found if device.roots and device.mountable] or [
        device for device in found if device.filesystem
    ]
    if len(likely) != 1:
        told = "; ".join(str(device) for device in found if device.number or device.kind) or "nothing"
        raise Unclear(f"{'several filesystems could be' if likely else 'no filesystem can be'} the root ({told})")
    device = likely[0]
    if subvolume is not None:
        return device, subvolume.strip("/")
    return device, next(iter(device.roots), "")


def mounts(found: Iterable[Device], top: Device, subvolume: str) -> list[Mount]:
    """The root, and all that its fstab(5) mounts from the same image, parents first."""
    chosen = {"/": Mount(top, subvolume, "/")}
    for fields in _entries(top.roots.get(subvolume, "")):
        source, point, kind, options = fields[:4]
        device = _named(source, found)
        path = "/" + "/".join(part for part in point.split("/") if part not in ("", "."))
        safe = point.startswith("/") and path != "/" and ".." not in path.split("/")
        if device is None or not safe or kind in ("swap", "none") or path in LEFT_OUT or "bind" in options.split(","):
            continue
        if device.mountable and device.kind in KINDS:
            chosen.setdefault(path, Mount(device, _subvolume(options), path))
    return [chosen[path] for path in sorted(chosen, key=lambda path: (path.count("/"), path))]


def without_disks(fstab: str) -> str:
    """fstab(5) text with the entries of disks as comments: what was on them is in the root now, or not there. Those
    that may be missing (``noauto``, ``nofail``) stay, as do those of what is no disk."""
    lines = []
    for line in fstab.splitlines():
        fields = line.split()
        entry = len(fields) >= 2 and not line.lstrip().startswith("#") and _is_disk(fields[0])
        optional = len(fields) > 3 and {"noauto", "nofail"} & set(fields[3].split(",")) and fields[1] != "/"
        lines.append(f"# not of this disk: {line.strip()}" if entry and not optional else line)
    return "".join(f"{line}\n" for line in lines)


def copying(chosen: Iterable[Mount]) -> str:
    """Shell for the appliance: copy what *chosen* are into the guest."""
    lines = [VOLUMES]
    for mount in chosen:
        target = shlex.quote(ROOT if mount.point == "/" else ROOT + mount.point)
        options = f"{OPTIONS},subvol=/{mount.subvolume}" if mount.subvolume else OPTIONS
        words = f"-t {shlex.quote(mount.device.kind)} -o {shlex.quote(options)} {shlex.quote(mount.device.path)}"
        check = f'[ "$(readlink -f {target})" = {target} ] && [ -d {target} ]'
        missing = shlex.quote(f"{mount.point} of the image is no directory: its filesystem is left out")
        lines.append(f"if {check}; then mount {words} {target}; else echo {missing}; fi")
    lines.append(f"/usr/lib/sfvm/nosync cp -a {ROOT}/. /sysroot/")
    lines.append("sync --file-system /sysroot")
    return "\n".join(lines) + "\n"


def _entries(fstab: str) -> list[list[str]]:
    """The fields of each entry, four at least, octal escapes replaced (getmntent(3))."""
    lines = [line.split() for line in fstab.splitlines() if not line.lstrip().startswith("#")]
    return [
        [re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word) for word in (*line, "defaults")]
        for line in lines
        if len(line) >= 3
    ]


def _is_disk(source: str) -> bool:
    return source.startswith(("/dev/", "UUID=", "LABEL=", "PARTUUID=", "PARTLABEL="))


def _named(source: str, found: Iterable[Device]) -> Device | None:
    """The device that fstab(5) calls *source*."""
    if link := re.fullmatch(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)", source):
        value = re.sub(r"\\x([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), link[2])  # as udev has escaped it
        source = f"{link[1].upper()}={value}"
    tag, _, value = source.partition("=")
    names = {"UUID": "UUID", "LABEL": "LABEL", "PARTUUID": "PART_ENTRY_UUID", "PARTLABEL": "PART_ENTRY_NAME"}
    for device in found:
        if tag in names and device.tags.get(names[tag], "").lower() == value.strip('"').lower() != "":
            return device
        if device.number == -1 and _mapper(source) == device.path:
            return device
        partition = re.fullmatch(r"/dev/(?:(?:sd|vd|xvd|hd)[a-z]+|nvme\d+n\d+p|mmcblk\d+p)([0-9]+)", source)
        if partition and int(partition[1]) == device.number:
            return device
    return None


def _mapper(source: str) -> str:
    """``/dev/GROUP/VOLUME`` as the device mapper calls it: hyphens of a name are doubled (lvm(8))."""
    match = re.fullmatch(r"/dev/([^/]+)/([^/]+)", source)
    if match is None or match[1] == "mapper":
        return source
    return "/dev/mapper/{}-{}".format(*(name.replace("-", "--") for name in match.groups()))


def _subvolume(options: str) -> str:
    found = [word.partition("=")[2] for word in options.split(",") if word.startswith("subvol=")]
    return found[0].strip("/") if found else ""
