"""``layout``: the disk that a format wants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
BIOS_BOOT_SIZE = 1 << 20
SMALLEST_ESP = 36 << 20
"""FAT32 has at least 65,525 clusters (Microsoft's FAT specification), here of 512 bytes."""


@dataclass(frozen=True)
class Layout:
    """The disk around a node's filesystem: partition table, boot partitions, boot loader.

    Example::

        <layout table="gpt">
          <bios-boot/><esp size="64M"/><root/>
          <boot loader="grub" console="tty0 ttyS0" timeout="1"/>
        </layout>

    ``bios-boot`` and ``esp`` make the disk bootable by BIOS and UEFI firmware; ``root`` is the node, last, so that it
    can grow with its disk (``grow="yes"`` marks it to be grown by systemd). ``loader="none"`` leaves the boot loader
    out.
    """

    element: ClassVar[str] = "layout"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="layout">
      <attribute name="table"><choice><value>gpt</value></choice></attribute>
      <interleave>
        <optional><element name="bios-boot"><empty/></element></optional>
        <optional>
          <element name="esp"><optional><attribute name="size"><ref name="size"/></attribute></optional></element>
        </optional>
        <element name="root"><optional><attribute name="grow"><ref name="yes-no"/></attribute></optional></element>
        <optional>
          <element name="boot">
            <attribute name="loader"><choice><value>grub</value><value>none</value></choice></attribute>
            <optional><attribute name="console"><ref name="words"/></attribute></optional>
            <optional><attribute name="arguments"><ref name="string"/></attribute></optional>
            <optional><attribute name="timeout"><ref name="integer"/></attribute></optional>
          </element>
        </optional>
      </interleave>
    </element>"""

    bios_boot: bool
    esp: int | None
    loader: str
    consoles: tuple[str, ...]
    arguments: str
    timeout: int
    place: Place = field(compare=False)
    grow: bool = False

    @classmethod
    def parse(cls, element: Element) -> Self:
        parts = {child.tag: child for child in element.children}
        root = parts["root"]
        esp, boot = parts.get("esp"), parts.get("boot")
        loader = (boot.get("loader") if boot else None) or "none"
        layout = cls(
            bios_boot="bios-boot" in parts,
            esp=parse_size(esp.get("size", "64M") or "64M", esp.place) if esp else None,
            loader=loader,
            consoles=boot.words("console") if boot else (),
            arguments=(boot.get("arguments") if boot else None) or "",
            timeout=int((boot.get("timeout") if boot else None) or 1),
            place=element.place,
            grow=root.flag("grow"),
        )
        if layout.esp is not None and layout.esp < SMALLEST_ESP:
            raise SpecError(
                f"an EFI system partition of {layout.esp >> 20} MiB is too small",
                place=parts["esp"].place_of("size"),
                hint=f"at least {SMALLEST_ESP >> 20}M: FAT32 needs so much",
            )
        if loader == "grub" and not (layout.bios_boot or layout.esp):
            raise SpecError(
                "a boot loader has no place in this layout",
                place=element.place,
                hint="add <bios-boot/> for BIOS, <esp/> for UEFI, or both",
            )
        return layout

    def title(self) -> str:
        return "layout gpt"

    def inputs(self) -> Mapping[str, Any]:
        return {"bios-boot": self.bios_boot, "esp": self.esp, "loader": self.loader, "consoles": list(self.consoles),
                "arguments": self.arguments, "timeout": self.timeout, "grow": self.grow}  # fmt: skip


def parse_size(text: str, place: Place) -> int:
    """``64M`` as bytes (K, M, G, T: powers of 1024)."""
    number, unit = (text[:-1], UNITS[text[-1]]) if text[-1:] in UNITS else (text, 1)
    if not number.isdigit() or int(number) < 1:
        raise SpecError(f"{text!r} is no size", place=place, hint="for example 64M or 8G")
    return int(number) * unit
