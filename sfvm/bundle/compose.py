"""The whole disk, composed on the host: blocks, not files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from sfvm import qcow2
from sfvm.bundle import gpt, grub
from sfvm.bundle.finish import Finished
from sfvm.bundle.layout import BIOS_BOOT_SIZE, Layout
from sfvm.cancellation import Cancellation


def compose(
    finished: Finished,
    layout: Layout,
    size: int,
    architecture: str,
    target: Path,
    progress: Callable[[float], None],
    stop: Cancellation,
) -> gpt.Table:
    """Write the raw disk *target* (sparse) around the filesystem of *size* bytes; return its partition table.

    :raises Cancelled: *stop* asks for it
    """
    wanted = []
    if layout.bios_boot:
        wanted.append(("BIOS boot", gpt.BIOS_BOOT, BIOS_BOOT_SIZE, 0))
    if layout.esp:
        wanted.append(("EFI system", gpt.ESP, layout.esp, 0))
    root_type = gpt.LINUX_ROOT.get(architecture, gpt.LINUX)
    wanted.append(("root", root_type, size, gpt.GROW_FILE_SYSTEM if layout.grow else 0))
    table = gpt.arrange(wanted)
    places = {partition.name: partition for partition in table.partitions}
    boot_code = b""
    with target.open("xb") as disk:
        disk.truncate(table.size)
        if layout.bios_boot and finished.core_image:
            place = places["BIOS boot"]
            disk.seek(place.offset)
            disk.write(grub.place_core(finished.core_image, place.first_sector, place.size))
            boot_code = grub.boot_code(finished.boot_image, place.first_sector)
        disk.seek(0)
        disk.write(gpt.head(table, boot_code))
        end = gpt.tail(table)
        disk.seek(table.size - len(end))
        disk.write(end)
        if finished.esp is not None:
            _copy_sparse(finished.esp, disk.fileno(), places["EFI system"].offset)
    root = places["root"]
    window = f"driver=raw,offset={root.offset},size={root.size},file.driver=file,file.filename={_option(target)}"
    qcow2.qemu_img(
        "convert", "-n", "--target-is-zero", "-W", "-m", str(min(os.cpu_count() or 1, 16)), "-f", "qcow2",
        finished.filesystem, "--target-image-opts", window, progress=progress, stop=stop,
    )  # fmt: skip
    return table


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


def _option(path: Path) -> str:
    """A file name inside an option list: commas are doubled (qemu(1))."""
    return str(path.absolute()).replace(",", ",,")
