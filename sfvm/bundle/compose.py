"""The whole disk, composed on the host: blocks, not files."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfvm import qcow2
from sfvm.bundle import gpt, grub
from sfvm.bundle.finish import Finished
from sfvm.bundle.layout import BIOS_BOOT_SIZE, Layout
from sfvm.cancellation import NEVER, Cancellation

Progress = Callable[[float], None]
ANY_ORDER = ("qcow2",)
"""Formats of QEMU's into which a part can be written at its place, after others."""


@dataclass(frozen=True)
class Part:
    """The content of the qcow2 file *source*, *size* bytes, which belongs at *offset* of a disk."""

    source: Path
    offset: int
    size: int


@dataclass
class Disk:
    """A disk that is not yet one file: the raw, sparse *frame* has its size and everything but the *parts*. Nobody
    copies them before somebody wants them, and then where they are wanted; several threads may."""

    frame: Path
    parts: tuple[Part, ...] = ()
    _alone: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        return self.frame.stat().st_size

    def raw(self, progress: Progress, stop: Cancellation = NEVER) -> Path:
        """The whole disk as a raw file, which is the same one for all: composed when it is first asked for.

        :raises Cancelled: *stop* asks for it
        """
        with self._alone:
            for part in self.parts:
                _fill(self.frame, "raw", part, progress, stop)
            self.parts = ()
            return self.frame

    def convert(self, target: Path, to: str, *options: str, progress: Progress, stop: Cancellation = NEVER) -> None:
        """Write *target* in the format *to* with *options* of ``qemu-img convert``.

        :raises Cancelled: *stop* asks for it
        """
        if to not in ANY_ORDER or "-c" in options:  # compressed clusters are written once, and whole
            self.raw(progress, stop)
        with self._alone:
            parts = self.parts
            if parts:
                _convert("-f", "raw", "-O", to, *options, self.frame, target, stop=stop)
        if not parts:
            _convert("-f", "raw", "-O", to, *options, self.frame, target, progress=progress, stop=stop)
        for part in parts:
            _fill(target, to, part, progress, stop)


def compose(finished: Finished, layout: Layout, size: int, architecture: str, frame: Path) -> Disk:
    """The disk around the filesystem of *size* bytes; *frame* becomes its file."""
    wanted = []
    if layout.bios_boot:
        wanted.append(("BIOS boot", gpt.BIOS_BOOT, BIOS_BOOT_SIZE, 0))
    if layout.esp:
        wanted.append(("EFI system", gpt.ESP, layout.esp, 0))
    root_type = gpt.LINUX_ROOT.get(architecture, gpt.LINUX)
    wanted.append(("root", root_type, size, gpt.GROW_FILE_SYSTEM if layout.grow else 0))
    table = gpt.arrange(wanted)
    places = {partition.name: partition for partition in table.partitions}
    loader, boot_code = finished.loader, b""
    with frame.open("xb") as disk:
        disk.truncate(table.size)
        if layout.bios_boot and loader.core_image:
            place = places["BIOS boot"]
            disk.seek(place.offset)
            disk.write(grub.place_core(loader.core_image, place.first_sector, place.size))
            boot_code = grub.boot_code(loader.boot_image, place.first_sector)
        disk.seek(0)
        disk.write(gpt.head(table, boot_code))
        end = gpt.tail(table)
        disk.seek(table.size - len(end))
        disk.write(end)
        if loader.esp is not None:
            _copy_sparse(loader.esp, disk.fileno(), places["EFI system"].offset)
    root = places["root"]
    return Disk(frame, (Part(finished.filesystem, root.offset, root.size),))


def _fill(target: Path, kind: str, part: Part, progress: Progress, stop: Cancellation) -> None:
    """Copy *part* to its place in *target*, a file of the format *kind* that has nothing there."""
    file: dict[str, Any] = {"driver": "file", "filename": str(target.absolute())}
    if kind != "raw":
        file = {"driver": kind, "file": file}
    window = {"driver": "raw", "offset": part.offset, "size": part.size, "file": file}
    words = ("-n", "--target-is-zero", "-f", "qcow2", "-O", "raw", part.source, f"json:{json.dumps(window)}")
    _convert(*words, progress=progress, stop=stop)


def _convert(*words: str | Path, progress: Progress | None = None, stop: Cancellation) -> None:
    threads = str(min(os.cpu_count() or 1, 16))
    qcow2.qemu_img("convert", "-W", "-m", threads, *words, progress=progress, stop=stop)


def _copy_sparse(source: Path, target: int, offset: int) -> None:
    """Copy the parts of *source* that hold data (lseek(2), SEEK_DATA) to *offset* in *target*."""
    with source.open("rb") as file:
        size, position = source.stat().st_size, 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                return  # nothing but holes from here on
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            os.lseek(file.fileno(), start, os.SEEK_SET)
            os.pwrite(target, os.read(file.fileno(), position - start), offset + start)
