"""The parts of a layout as they are written, and what the schema cannot say of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from sfvm.bundle.disk import efi, extlinux, verity
from sfvm.bundle.disk.filesystems import DATA, ROOT, TYPES
from sfvm.bundle.disk.layout import BIOS_BOOT_SIZE, CONTAINERS, Boot, Layout, Part
from sfvm.document import Element
from sfvm.errors import Place, SpecError, suggestion

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SMALLEST_ESP = 36 << 20
"""FAT32 has at least 65,525 clusters (Microsoft's FAT specification), here of 512 bytes."""
LOADERS = ("grub", *efi.LOADERS, extlinux.NAME, "pygrub", "none")
MBR_PARTS = 4
NO_GRUB = ("squashfs", "erofs")
"""GRUB finds a filesystem by its UUID, which squashfs has not; GRUB 2.06 knows no erofs."""
VOLUME_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*")
"""As lvm(8) has it, but for hyphens, which the names of devices double."""


def parts_of(element: Element) -> tuple[Part, ...]:
    """The partitions of a layout."""
    return tuple(part for child in element.children if child.tag != "boot" for part in _partitions(child))


def _partitions(element: Element) -> Iterator[Part]:
    if element.tag == "lvm":
        yield _group(element)
    elif element.tag == "luks":
        yield _locked(element)
    elif element.tag == "raid":
        place = element.place
        yield Part("raid", parts=(_contained(_part(element.children[0])),), place=place)
        yield Part("raid", place=place)
    else:
        yield (part := _part(element))
        if part.verity:
            yield Part("verity", place=part.place)


def _group(element: Element) -> Part:
    numbered, parts = 0, []
    for child in element.children:
        part = _contained(_part(child))
        if not part.name:
            part = replace(part, name=f"data{numbered}" if part.kind == "data" else part.kind)
            numbered += part.kind == "data"
        parts.append(part)
    size, unit = _size(element)
    if unit == "more":
        raise SpecError(
            "a group cannot be what it needs and more", place=element.place_of("size"), hint="for example 8G"
        )
    group, pool = element.attributes["group"], element.get("thin") or ""
    names = Counter([part.name for part in parts] + ([pool] if pool else []))
    for name in (group, *names):
        if not VOLUME_NAME.fullmatch(name):
            raise SpecError(
                f"{name!r} is no name for LVM", place=element.place, hint="letters, digits, _ and ., no hyphen"
            )
    if twice := [name for name, count in names.items() if count > 1]:
        raise SpecError(f"two volumes are called {twice[0]!r}", place=element.place, hint="give each a name of its own")
    return Part("lvm", size, unit=unit, name=group, pool=pool, parts=tuple(parts), place=element.place)


def _locked(element: Element) -> Part:
    part = _contained(_part(element.children[0]))
    name, secret = element.get("name") or part.kind, element.get("secret") or "passphrase"
    for word in (name, secret):
        if not VOLUME_NAME.fullmatch(word):
            raise SpecError(f"{word!r} cannot be a name here", place=element.place, hint="letters, digits, _ and .")
    return Part("luks", name=name, secret=secret, parts=(part,), place=element.place)


def _contained(part: Part) -> Part:
    """A part in a container, which has its size before anything is in it."""
    if part.unit == "more":
        raise SpecError(
            "a part in a container cannot be what it needs and more", place=part.place, hint="for example 8G or 50%"
        )
    return part


def _part(element: Element) -> Part:
    size, unit = _size(element)
    name = element.get("name") or ""
    match element.tag:
        case "root":
            kind = _format(element, ROOT, "")
            if kind in NO_GRUB and size is None:
                size, unit = 0, "more"
            subvolumes = tuple(child.attributes["path"].rstrip("/") for child in element.children)
            if subvolumes and kind != "btrfs":
                raise SpecError("only btrfs has subvolumes", place=element.place, hint='format="btrfs"')
            if "" in subvolumes or len(set(subvolumes)) < len(subvolumes):
                raise SpecError("each subvolume has a path of its own, and / is none", place=element.place)
            checked = element.flag("verity")
            if checked and kind not in verity.FORMATS:
                raise SpecError(
                    "a root with verity is made as a read-only one",
                    place=element.place,
                    hint=f'format="{verity.FORMATS[-1]}", or one of {", ".join(verity.FORMATS[:-1])}',
                )
            options = "ro" if checked or kind in NO_GRUB else "defaults"
            return Part("root", size, kind, "/", options, element.flag("grow"), unit, subvolumes, name,
                        verity=checked, place=element.place)  # fmt: skip
        case "esp":
            if size is not None and size < SMALLEST_ESP:
                raise SpecError(
                    f"an EFI system partition of {size >> 20} MiB is too small",
                    place=element.place_of("size"),
                    hint=f"at least {SMALLEST_ESP >> 20}M: FAT32 needs so much",
                )
            return Part("esp", size, "vfat", "/boot/efi", "umask=0077,nofail", place=element.place)
        case "bios-boot":
            return Part("bios-boot", BIOS_BOOT_SIZE, place=element.place)
        case "swap":
            if unit == "more":
                raise SpecError("swap needs nothing", place=element.place_of("size"), hint="for example 1G")
            return Part("swap", size, "swap", "none", "sw", unit=unit, name=name, place=element.place)
    kind = _format(element, DATA, "ext4")
    mount = (element.get("mount") or "").rstrip("/") or element.get("mount") or ""
    options = element.get("options") or ("ro" if TYPES[kind].readonly else "defaults")
    return Part("data", size, kind, mount, options, unit=unit, name=name, place=element.place)


def _size(element: Element) -> tuple[int | None, str]:
    """A size and its unit, as :class:`Part` has them."""
    text = element.get("size")
    if not text:
        return None, "bytes"
    place = element.place_of("size")
    if text.startswith("+"):
        return parse_size(text[1:], place, least=0), "more"
    if text.endswith("%"):
        return parse_size(text[:-1], place), "percent"
    return parse_size(text, place), "bytes"


def _format(element: Element, known: tuple[str, ...], default: str) -> str:
    kind = element.get("format") or default
    if kind not in (*known, default):
        raise SpecError(
            f"a {element.tag} partition cannot be {kind!r}",
            place=element.place_of("format"),
            hint=suggestion(kind, known) or "one of " + ", ".join(known),
        )
    return kind


def boot_of(element: Element) -> Boot:
    """How the disk boots."""
    loader = element.attributes["loader"]
    if loader not in LOADERS:
        raise SpecError(
            f"there is no boot loader {loader!r}",
            place=element.place_of("loader"),
            hint=suggestion(loader, LOADERS) or "one of " + ", ".join(LOADERS),
        )
    timeout = int(element.get("timeout") or 1)
    return Boot(loader, element.words("console"), element.get("arguments") or "", timeout)


def check(layout: Layout, place: Place) -> None:
    """What the schema cannot say of a whole layout."""
    kinds = [part.kind for part in layout.parts]
    mounts = [part.mount for part in layout.walk() if part.kind == "data" and part.mount]
    roots = sum(part.kind == "root" for part in layout.walk())
    loader, boot = layout.boot.loader, layout.boot_part
    problem = hint = None
    if roots != 1:
        problem, hint = f"a disk has one root, this one has {roots}", "add or remove <root/>"
    elif layout.table == "none" and (len(kinds) > 1 or kinds[0] in CONTAINERS):
        problem, hint = "a disk without a partition table is its root filesystem alone", 'table="gpt" has partitions'
    elif layout.table == "mbr" and "bios-boot" in kinds:
        problem, hint = "an MBR has no BIOS boot partition", "remove <bios-boot/>: GRUB is put before the first one"
    elif layout.table == "mbr" and len(kinds) > MBR_PARTS:
        problem, hint = f"an MBR has {MBR_PARTS} partitions", 'table="gpt" has more'
    elif loader == "grub" and layout.table != "mbr" and not {"bios-boot", "esp"} & set(kinds):
        problem = "a boot loader has no place in this layout"
        hint = "add <bios-boot/> for BIOS, <esp/> for UEFI, or both"
    elif loader in efi.LOADERS and "esp" not in kinds:
        problem, hint = f"{loader} stands on an EFI system partition", "add <esp/>"
    elif loader == "grub" and boot is None and layout.root.filesystem in NO_GRUB:
        problem = f"GRUB cannot read its files from {layout.root.filesystem}"
        hint = 'loader="systemd-boot" or "uki"; or add <data size="200M" mount="/boot"/>'
    elif loader == "grub" and any(part.pool and (boot or layout.root) in part.parts for part in layout.parts):
        problem = "GRUB cannot read its files from a thin volume"
        hint = '<data size="300M" mount="/boot"/> outside of the group; or loader="systemd-boot" or "uki"'
    elif loader == "grub" and boot is not None and TYPES[boot.filesystem].readonly:
        problem, hint = f"/boot cannot be {boot.filesystem}", 'format="ext4"'
    elif layout.root.verity and (layout.table != "gpt" or layout.root not in layout.parts):
        problem = "a root with verity is a partition of a GPT, which is found by its identifier"
        hint = 'table="gpt", and the root in no container'
    elif layout.root.verity and boot is None and loader in ("grub", extlinux.NAME, "pygrub"):
        problem = f"{loader} would read the root hash from what it is of"
        hint = '<data size="300M" mount="/boot"/>; or loader="systemd-boot" or "uki"'
    elif any(part.secret and boot in part.parts for part in layout.parts):
        problem, hint = "/boot is read before anything is unlocked", '<data size="300M" mount="/boot"/> outside of it'
    elif (
        boot is None and loader in ("grub", "pygrub") and any(p.secret and layout.root in p.parts for p in layout.parts)
    ):
        problem = f"{loader} cannot read its files from what is locked"
        hint = '<data size="300M" mount="/boot"/> outside of it; or loader="systemd-boot" or "uki"'
    elif len({part.name for part in layout.parts if part.secret}) < sum(bool(part.secret) for part in layout.parts):
        problem, hint = "two parts that are opened have the same name", 'give each a name="…" of its own'
    elif (starts := extlinux.part(layout)) is not None and starts not in layout.parts:
        problem, hint = "extlinux cannot read a part in a container", '<data size="300M" mount="/boot"/> outside of it'
    elif starts is not None and (starts.filesystem or "ext4") not in extlinux.READABLE:
        problem = f"extlinux cannot read its files from {starts.filesystem}"
        hint = f'<data size="300M" mount="/boot"/>, of the format {", ".join(extlinux.READABLE)}'
    elif starts is not None and any(f"{path}/".startswith("/boot/") for path in starts.subvolumes):
        problem, hint = "extlinux cannot read its files from a subvolume", "let /boot be no subvolume"
    elif len(set(mounts)) < len(mounts) or "/" in mounts:
        problem, hint = "two partitions are mounted at the same place", "give each a mount of its own"
    elif any(
        part.pool and child.size is None and child.kind != "root" for part in layout.parts for child in part.parts
    ):
        problem, hint = "a thin volume has a size", "add one"
    if problem:
        raise SpecError(problem, place=place, hint=hint)


def parse_size(text: str, place: Place, least: int = 1) -> int:
    """``64M`` as bytes (K, M, G, T: powers of 1024)."""
    number, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    if not number.isdigit() or int(number) < least:
        raise SpecError(f"{text!r} is no size", place=place, hint="for example 64M or 8G")
    return int(number) * unit
