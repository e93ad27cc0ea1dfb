"""A node's files as an archive, for formats without a disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sfvm.appliance.machine import Drive
from sfvm.bundle.finished import INITRD, VMLINUZ
from sfvm.bundle.kernel import Kernel
from sfvm.bundle.layers import Layering
from sfvm.bundle.packing import tar_script
from sfvm.bundle.workshop import Workshop, epoch, kernel_of, overlay_of, prepare
from sfvm.repository import Manifest

TAR_MARGIN = 64 << 20


@dataclass(frozen=True)
class Tree:
    """A node's files, prepared like any bundle, in the *overlay*; and where they were wanted, an uncompressed tar
    *archive* of them, the newest kernel, and the layers."""

    overlay: Path
    archive: Path | None
    kernel: Kernel | None
    vmlinuz: Path | None
    initrd: Path | None
    layers: tuple[Path, ...] = ()


def tree(name: str, manifest: Manifest, work: Path, needs: frozenset[str], shop: Workshop) -> Tree:
    """Prepare the files of a node, and make below *work* what formats *need* of them (see
    :class:`sfvm.bundle.stage.Output`).

    The archive is written to a raw drive as large as the node could need; the byte count says where it ends.

    :raises Cancelled: the workshop is to stop
    """
    overlay = overlay_of(work / "files.qcow2", shop.repository.backing(manifest.key, stop=shop.stop))
    drives = [Drive(overlay)]
    archive = work / "files.tar" if "archive" in needs else None
    if archive:
        with archive.open("xb") as file:
            file.truncate(manifest.disk * 2 + TAR_MARGIN)  # sparse; tar adds a header to every file
        drives.append(Drive(archive, "raw"))
    first = len(drives)
    layering = Layering(manifest, work, shop.repository, shop.stop) if "layers" in needs else None
    if layering:
        drives += layering.drives()
    known, count = None, 0
    counts: tuple[int, ...] = ()
    with shop.running(drives, name) as appliance:
        if layering:
            counts = layering.pack(appliance, first)
        prepare(appliance, manifest)
        if "kernel" in needs:
            known = kernel_of(appliance, appliance.guest.names("/boot"), work)
        if archive:
            count = int(appliance.run(tar_script(appliance.device(1), epoch(manifest))))
        if layering:
            counts = layering.finish(appliance, first, counts, epoch(manifest))
        appliance.unmount()
    if archive:
        os.truncate(archive, count)
    initrd = work / INITRD if (work / INITRD).exists() else None
    layers = layering.cut(counts) if layering else ()
    return Tree(overlay, archive, known, work / VMLINUZ if known else None, initrd, layers)
