"""``layout``: the disk that a format wants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.disk.filesystems import TYPES
from sfvm.bundle.disk.layout import Boot, Layout
from sfvm.bundle.disk.partitions import SECTOR
from sfvm.bundle.outputs._parts import boot_of, check, parse_size, parts_of
from sfvm.bundle.outputs.requires import Requires
from sfvm.document import Element
from sfvm.errors import Place, SpecError

__all__ = ["LayoutVerb", "parse_size"]

_NAME = '<optional><attribute name="name"><ref name="word"/></attribute></optional>'
_SWAP = f"""
  <optional><element name="swap">
    <attribute name="size"><ref name="part-size"/></attribute>{_NAME}
  </element></optional>"""
_DATUM = f"""
  <element name="data">
    <attribute name="size"><ref name="part-size"/></attribute>{_NAME}
    <optional><attribute name="format"><ref name="word"/></attribute></optional>
    <optional><attribute name="mount"><ref name="path"/></attribute></optional>
    <optional><attribute name="options"><ref name="word"/></attribute></optional>
  </element>"""
_DATA = f"<zeroOrMore>{_DATUM}</zeroOrMore>"
_ROOT = f"""
  <element name="root">{_NAME}
    <optional><attribute name="grow"><ref name="yes-no"/></attribute></optional>
    <optional><attribute name="verity"><ref name="yes-no"/></attribute></optional>
    <optional><attribute name="size"><ref name="part-size"/></attribute></optional>
    <optional><attribute name="format"><ref name="word"/></attribute></optional>
    <zeroOrMore><element name="subvolume"><attribute name="path"><ref name="path"/></attribute></element></zeroOrMore>
  </element>"""


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
    below the ``mount`` of a ``data`` partition (``/boot``, too) goes there.

    A ``size`` is absolute (``8G``), a part of the node's filesystem (``50%``), or what the files need and more
    (``+500M``). A root with a ``format`` of its own (ext4, xfs, btrfs, f2fs; squashfs and erofs, which are read-only),
    or with less room than the node has, gets the node's files instead of its blocks. A btrfs root may have
    ``<subvolume path="/home"/>``, each with its line in fstab.

    ``verity="yes"`` makes a root (squashfs, erofs; ext4, mounted read-only) one that dm-verity checks: a partition with
    its hashes follows, the identifiers of the two are halves of the root hash, as the Discoverable Partitions
    Specification says, and the hash is in the kernel's arguments (``roothash=``) and the bundle's manifest. The guest
    needs an initramfs that follows them, as systemd's does.

    ``<lvm group="vg0">`` has ``swap``, ``data`` and ``root`` as its volumes, each with a ``name`` if its own is not to
    be ``swap``, ``data0`` …, ``root``; ``thin="pool0"`` makes them thin, in a pool of that name. ``<raid>`` has the one
    part that two partitions mirror. The guest must have what finds them: the packages lvm2, mdadm.

    ``<luks name="root" secret="passphrase">`` has one ``root``, ``data`` or ``swap`` that is encrypted (LUKS2). The
    passphrase is the secret of that name (``--secret passphrase=file:PATH``); what is opened is called ``name``, the
    part's kind if nothing is said. The guest needs what asks for it, in its initramfs: cryptsetup-initramfs, with
    ``CRYPTSETUP=y`` in its conf-hook; or systemd's or dracut's.

    The ``loader`` is ``grub``; ``systemd-boot`` or ``uki`` (a unified kernel image), for UEFI alone, which have the
    newest kernel on the ESP and come from the guest, else from this machine (systemd-boot-efi); ``extlinux``, the
    guest's own, for BIOS alone, which reads the kernels from an ext4, btrfs or vfat partition; ``pygrub``, which is a
    grub.cfg alone, for Xen's pygrub; or ``none``. ``size`` is the least size of the disk, ``multiple`` what it is
    rounded up to (1M, if nothing is said).
    """

    element: ClassVar[str] = "layout"
    version: ClassVar[int] = 3
    schema: ClassVar[str] = f"""
    <element name="layout">
      <attribute name="table"><choice><value>gpt</value><value>mbr</value><value>none</value></choice></attribute>
      <optional><attribute name="size"><ref name="size"/></attribute></optional>
      <optional><attribute name="multiple"><ref name="size"/></attribute></optional>
      <interleave>
        <optional><element name="bios-boot"><empty/></element></optional>
        <optional>
          <element name="esp"><optional><attribute name="size"><ref name="size"/></attribute></optional></element>
        </optional>
        {_SWAP}
        {_DATA}
        <optional>{_ROOT}</optional>
        <optional>
          <element name="lvm">
            <attribute name="group"><ref name="word"/></attribute>
            <optional><attribute name="size"><ref name="part-size"/></attribute></optional>
            <optional><attribute name="thin"><ref name="word"/></attribute></optional>
            <interleave>{_SWAP}{_DATA}<optional>{_ROOT}</optional></interleave>
          </element>
        </optional>
        <zeroOrMore>
          <element name="luks">
            <optional><attribute name="name"><ref name="word"/></attribute></optional>
            <optional><attribute name="secret"><ref name="word"/></attribute></optional>
            <choice>
              {_ROOT}{_DATUM}
              <element name="swap"><attribute name="size"><ref name="part-size"/></attribute></element>
            </choice>
          </element>
        </zeroOrMore>
        <zeroOrMore>
          <element name="raid"><choice>{_ROOT}{_DATUM}</choice></element>
        </zeroOrMore>
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
        layout = Layout(
            table=element.attributes["table"],
            parts=parts_of(element),
            boot=next((boot_of(child) for child in element.children if child.tag == "boot"), Boot()),
            size=parse_size(element.get("size") or "0", element.place, least=0),
            multiple=parse_size(element.get("multiple") or "1M", element.place),
            place=element.place,
        )
        if layout.multiple % SECTOR:
            raise SpecError(
                "multiple is no whole number of sectors", place=element.place_of("multiple"), hint="for example 1M"
            )
        check(layout, element.place)
        return cls(layout, element.place)

    def title(self) -> str:
        return f"layout {self.layout.table}"

    def inputs(self) -> Mapping[str, Any]:
        return self.layout.inputs()

    def requires(self) -> Iterator[Requires]:
        """What a guest must have to boot from the disk: nothing, if nothing boots it."""
        layout = self.layout
        if layout.boot.loader == "none":
            return
        if kind := layout.root.filesystem:
            # Debian's cloud kernel has all of them as modules, its initramfs not all.
            option = ("SQUASHFS_ZSTD",) if kind == "squashfs" else ()
            yield Requires((TYPES[kind].module,), (), option, (), (), layout.root.place or self.place)
        if layout.root.verity:
            yield Requires(("dm_verity",), (), (), (), (), layout.root.place or self.place)
        for part in layout.parts:
            if part.kind == "lvm":
                thin = ("dm_thin_pool",) if part.pool else ()
                tools = ("thin-provisioning-tools|device-mapper-persistent-data",) if part.pool else ()
                modules = ("dm_mod", *thin)
                yield Requires(modules, (), (), (), ("lvm2", *tools), part.place or self.place)
            elif part.secret and layout.root in part.parts:
                yield Requires(("dm_crypt",), (), (), (), ("cryptsetup-initramfs|dracut",), part.place or self.place)
            elif part.secret:
                yield Requires((), ("dm_crypt",), (), (), (), part.place or self.place)
            elif part.kind == "raid":
                yield Requires(("raid1",), (), (), (), ("mdadm",), part.place or self.place)
