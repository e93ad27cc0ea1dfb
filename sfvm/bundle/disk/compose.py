"""The whole disk, composed on the host: blocks, not files."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sfvm.bundle.disk import extlinux, gpt, grub, mbr, verity
from sfvm.bundle.disk.disk import Disk, Piece
from sfvm.bundle.disk.layout import Layout
from sfvm.bundle.disk.partitions import SECTOR, Table, Wanted, arrange, partition_id, whole
from sfvm.bundle.disk.parts import table_kind
from sfvm.bundle.finished import BOOT_IMAGE, CORE_IMAGE, Finished
from sfvm.bundle.holes import extents
from sfvm.errors import BundleError

BLOCK = 4 << 20
NAMES = {"bios-boot": "BIOS boot", "esp": "EFI system", "verity": "root hashes"}


def identity_of(layout: Layout, node: uuid.UUID) -> uuid.UUID:
    """What the identifiers of a disk and its partitions follow from; *node* is the node's own."""
    return uuid.uuid5(node, json.dumps(layout.finishing(), sort_keys=True))


def partition_uuid(layout: Layout, number: int, node: uuid.UUID) -> str:
    """What the kernel calls the PARTUUID of the partition *number*, from 0."""
    disk = identity_of(layout, node)
    if layout.table == "mbr":
        return f"{mbr.identifier(Table(disk, (), 0)).removeprefix('0x')}-{number + 1:02x}"
    return str(partition_id(disk, number))


def table_of(layout: Layout, size: int, identity: uuid.UUID, made: Mapping[int, int], root_hash: str = "") -> Table:
    """Where the parts of *layout* are on the disk, for a node of *size* bytes; *made* has the sizes of those, by
    number, that are made already, *root_hash* is that of dm-verity."""
    sizes = [made.get(number) or part.bytes(size) or 0 for number, part in enumerate(layout.parts)]
    if layout.table == "none":
        return whole(sizes[0], identity, least=layout.size, multiple=layout.multiple)
    wanted = [
        Wanted(kind := table_kind(part), NAMES.get(kind, kind), size, part.grow, part is extlinux.part(layout))
        for part, size in zip(layout.parts, sizes, strict=True)
    ]
    table = arrange(wanted, identity, least=layout.size, multiple=layout.multiple)
    known = verity.identifiers(layout, root_hash)
    parts = [replace(part, id=known.get(number, part.id)) for number, part in enumerate(table.partitions)]
    return replace(table, partitions=tuple(parts))


def compose(finished: Finished, layout: Layout, table: Table, architecture: str, frame: Path) -> Disk:
    """The disk with *table* around what was *finished*; *frame* becomes its file.

    :raises BundleError: what an MBR cannot say
    """
    with frame.open("xb") as disk:
        disk.truncate(table.size)
        for offset, data in _head_and_tail(finished, layout, table, architecture):
            disk.seek(offset)
            disk.write(data)
        disk.flush()
        for number, place in enumerate(table.partitions):
            if (source := finished.part(number)) is not None:
                _copy_sparse(source, disk.fileno(), place.offset)
    blocks = (
        Piece(finished.filesystem, place.offset, place.size)
        for number, place in enumerate(table.partitions)
        if place.kind == "root" and finished.part(number) is None
    )
    return Disk(frame, tuple(blocks))


def _head_and_tail(finished: Finished, layout: Layout, table: Table, architecture: str) -> list[tuple[int, bytes]]:
    """The partition table and what BIOS starts, as bytes at offsets."""
    core, boot_code = finished.image(CORE_IMAGE), finished.image(BOOT_IMAGE)
    pieces: list[tuple[int, bytes]] = []
    if core:
        if layout.table == "mbr":
            sector, room = mbr.GAP_SECTOR, mbr.gap(table)
        else:
            place = next(place for place in table.partitions if place.kind == "bios-boot")
            sector, room = place.first_sector, place.size
        pieces.append((sector * SECTOR, grub.place_core(core, sector, room)))
        boot_code = grub.boot_code(boot_code, sector)
    match layout.table:
        case "gpt":
            end = gpt.tail(table, architecture)
            pieces += [(0, gpt.head(table, architecture, boot_code)), (table.size - len(end), end)]
        case "mbr":
            try:
                pieces.append((0, mbr.head(table, boot_code)))
            except ValueError as error:
                raise BundleError(
                    "the disk cannot have an MBR", place=layout.place, why=str(error), hint='table="gpt"'
                ) from None
    return pieces


def _copy_sparse(source: Path, target: int, offset: int) -> None:
    """Copy the parts of *source* that hold data to *offset* in *target*."""
    with source.open("rb") as file:
        for start, end in extents(file.fileno(), source.stat().st_size):
            while start < end and (data := os.pread(file.fileno(), min(end - start, BLOCK), start)):
                os.pwrite(target, data, offset + start)
                start += len(data)
