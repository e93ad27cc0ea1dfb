"""A node's files as an archive, for formats without a disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfvm.appliance.machine import Drive
from sfvm.bundle.finished import INITRD, VMLINUZ
from sfvm.bundle.kernel import Kernel
from sfvm.bundle.layers import Layering
from sfvm.bundle.packing import tar_script
from sfvm.bundle.sysprep import sysprep
from sfvm.bundle.workshop import Workshop, epoch, kernel_of, overlay_of
from sfvm.repository import Manifest

TAR_MARGIN = 64 << 20


@dataclass(frozen=True)
class Tree:
    """A node's files, prepared like any bundle: an uncompressed tar *archive*, and the newest kernel where it was
    wanted. *overlay* is the filesystem that they are of."""

    archive: Path
    overlay: Path
    kernel: Kernel | None
    vmlinuz: Path | None
    initrd: Path | None
    layers: tuple[Path, ...] = ()


def tree(name: str, manifest: Manifest, work: Path, needs: frozenset[str], shop: Workshop) -> Tree:
    """Make the archive of a node, below *work*, and what it *needs* beside (see :class:`sfvm.bundle.stage.Output`).

    It is written to a raw drive as large as the node could need; the byte count says where the archive ends.

    :raises Cancelled: the workshop is to stop
    """
    overlay = overlay_of(work / "files.qcow2", shop.repository.backing(manifest.key, stop=shop.stop))
    stream = work / "files.tar"
    with stream.open("xb") as file:
        file.truncate(manifest.disk * 2 + TAR_MARGIN)  # sparse; tar adds a header to every file
    known = None
    layering = Layering(manifest, work, shop.repository, shop.stop) if "layers" in needs else None
    counts: tuple[int, ...] = ()
    drives = [Drive(overlay), Drive(stream, "raw"), *(layering.drives() if layering else ())]
    with shop.running(drives, name) as appliance:
        if layering:
            counts = layering.pack(appliance, 2)
        appliance.mount()
        sysprep(appliance.guest)
        if "kernel" in needs:
            known = kernel_of(appliance, appliance.guest.names("/boot"), work)
        count = appliance.run(tar_script(appliance.device(1), epoch(manifest)))
        if layering:
            counts = layering.finish(appliance, 2, counts, epoch(manifest))
        appliance.unmount()
    with stream.open("r+b") as file:
        file.truncate(int(count))
    initrd = work / INITRD if (work / INITRD).exists() else None
    layers = layering.cut(counts) if layering else ()
    return Tree(stream, overlay, known, work / VMLINUZ if known else None, initrd, layers)
