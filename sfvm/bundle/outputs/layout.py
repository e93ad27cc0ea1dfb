"""``layout``: the disk that a format wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.disk.layout import BIOS_BOOT_SIZE, MIB, Boot, Layout, Part
from sfvm.document import Element
from sfvm.errors import Place, SpecError, suggestion

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SMALLEST_ESP = 36 << 20
"""FAT32 has at least 65,525 clusters (Microsoft's FAT specification), here of 512 bytes."""
LOADERS = ("grub", "pygrub", "none")
FILESYSTEMS = ("ext4", "xfs", "btrfs", "vfat")
MBR_PARTS = 4


@dataclass(frozen=True)
class LayoutVerb:
    """The disk around a node's filesystem: partition table, partitions, boot loader.

    Example::

        <layout table="gpt">
          <bios-boot/><esp size="64M"/><swap size="1G"/><root grow="yes"/>
          <data size="2G" format="xfs" mount="/srv"/>
          <boot loader="grub" console="tty0 ttyS0" timeout="1"/>
        </layout>

    ``table`` is ``gpt``, ``mbr`` or ``none``: a filesystem that is the whole disk. Partitions stand on the disk as they
    do here. ``bios-boot`` (GPT) and ``esp`` make the disk bootable by BIOS and UEFI firmware; a disk with an MBR boots
    by BIOS without. ``root`` is the node; ``grow="yes"`` lets it grow with its disk, as the last one. What the node has
    below the ``mount`` of a ``data`` partition goes there.

    The ``loader`` is ``grub``; ``pygrub``, which is a grub.cfg alone, for Xen's pygrub; or ``none``. ``size`` is the
    least size of the disk, ``multiple`` what it is rounded up to (1M, if nothing is said).
    """

    element: ClassVar[str] = "layout"
    version: ClassVar[int] = 2
    schema: ClassVar[str] = """
    <element name="layout">
      <attribute name="table"><choice><value>gpt</value><value>mbr</value><value>none</value></choice></attribute>
      <optional><attribute name="size"><ref name="size"/></attribute></optional>
      <optional><attribute name="multiple"><ref name="size"/></attribute></optional>
      <interleave>
        <optional><element name="bios-boot"><empty/></element></optional>
        <optional>
          <element name="esp"><optional><attribute name="size"><ref name="size"/></attribute></optional></element>
        </optional>
        <optional><element name="swap"><attribute name="size"><ref name="size"/></attribute></element></optional>
        <zeroOrMore><element name="data">
          <attribute name="size"><ref name="size"/></attribute>
          <optional><attribute name="format"><ref name="word"/></attribute></optional>
          <optional><attribute name="mount"><ref name="path"/></attribute></optional>
          <optional><attribute name="options"><ref name="word"/></attribute></optional>
        </element></zeroOrMore>
        <element name="root">
          <optional><attribute name="grow"><ref name="yes-no"/></attribute></optional>
          <optional><attribute name="size"><ref name="size"/></attribute></optional>
        </element>
        <optional>
          <element name="boot">
            <attribute name="loader"><ref name="word"/></attribute>
            <optional><attribute name="console"><ref name="words"/></attribute></optional>
            <optional><attribute name="arguments"><ref name="string"/></attribute></optional>
            <optional><attribute name="timeout"><ref name="integer"/></attribute></optional>
          </element>
        </optional>
      </interleave>
    </element>"""

    layout: Layout
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        parts = tuple(_part(child) for child in element.children if child.tag != "boot")
        boot = next((_boot(child) for child in element.children if child.tag == "boot"), Boot())
        layout = Layout(
            table=element.attributes["table"],
            parts=parts,
            boot=boot,
            size=parse_size(element.get("size") or "0", element.place, least=0),
            multiple=parse_size(element.get("multiple") or "1M", element.place),
            place=element.place,
        )
        _check(layout, element.place)
        return cls(layout, element.place)

    def title(self) -> str:
        return f"layout {self.layout.table}"

    def inputs(self) -> Mapping[str, Any]:
        return self.layout.inputs()


def _part(element: Element) -> Part:
    size = parse_size(text, element.place_of("size")) if (text := element.get("size")) else None
    match element.tag:
        case "root":
            return Part("root", size, mount="/", grow=element.flag("grow"), place=element.place)
        case "esp":
            size = size or 64 * MIB
            if size < SMALLEST_ESP:
                raise SpecError(
                    f"an EFI system partition of {size >> 20} MiB is too small",
                    place=element.place_of("size"),
                    hint=f"at least {SMALLEST_ESP >> 20}M: FAT32 needs so much",
                )
            return Part("esp", size, "vfat", "/boot/efi", "umask=0077,nofail", place=element.place)
        case "bios-boot":
            return Part("bios-boot", BIOS_BOOT_SIZE, place=element.place)
        case "swap":
            return Part("swap", size, "swap", "none", "sw", place=element.place)
    kind = element.get("format") or "ext4"
    if kind not in FILESYSTEMS:
        raise SpecError(
            f"a data partition cannot be {kind!r}",
            place=element.place_of("format"),
            hint=suggestion(kind, FILESYSTEMS) or "one of " + ", ".join(FILESYSTEMS),
        )
    mount = (element.get("mount") or "").rstrip("/") or element.get("mount") or ""
    return Part("data", size, kind, mount, element.get("options") or "defaults", place=element.place)


def _boot(element: Element) -> Boot:
    loader = element.attributes["loader"]
    if loader not in LOADERS:
        raise SpecError(
            f"there is no boot loader {loader!r}",
            place=element.place_of("loader"),
            hint=suggestion(loader, LOADERS) or "one of " + ", ".join(LOADERS),
        )
    timeout = int(element.get("timeout") or 1)
    return Boot(loader, element.words("console"), element.get("arguments") or "", timeout)


def _check(layout: Layout, place: Place) -> None:
    """What the schema cannot say."""
    kinds = [part.kind for part in layout.parts]
    mounts = [part.mount for part in layout.parts if part.kind == "data" and part.mount]
    problem = hint = None
    if layout.table == "none" and len(kinds) > 1:
        problem, hint = "a disk without a partition table is its root filesystem alone", 'table="gpt" has partitions'
    elif layout.table == "mbr" and "bios-boot" in kinds:
        problem, hint = "an MBR has no BIOS boot partition", "remove <bios-boot/>: GRUB is put before the first one"
    elif layout.table == "mbr" and len(kinds) > MBR_PARTS:
        problem, hint = f"an MBR has {MBR_PARTS} partitions", 'table="gpt" has more'
    elif layout.boot.loader == "grub" and layout.table != "mbr" and not {"bios-boot", "esp"} & set(kinds):
        problem = "a boot loader has no place in this layout"
        hint = "add <bios-boot/> for BIOS, <esp/> for UEFI, or both"
    elif len(set(mounts)) < len(mounts) or "/" in mounts:
        problem, hint = "two partitions are mounted at the same place", "give each a mount of its own"
    if problem:
        raise SpecError(problem, place=place, hint=hint)


def parse_size(text: str, place: Place, least: int = 1) -> int:
    """``64M`` as bytes (K, M, G, T: powers of 1024)."""
    number, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    if not number.isdigit() or int(number) < least:
        raise SpecError(f"{text!r} is no size", place=place, hint="for example 64M or 8G")
    return int(number) * unit
