"""Bundles: the disk around a node."""

from __future__ import annotations

import uuid

from sfvm import qcow2
from sfvm.bundle.disk.compose import compose as make
from sfvm.bundle.disk.compose import table_of
from sfvm.bundle.disk.layout import Layout, Part
from sfvm.bundle.finished import FILESYSTEM, Finished
from sfvm.guest import Command
from tests.bench.appliance import started
from tests.bench.measure import Bench, Result, alternately


def compose(bench: Bench) -> list[Result]:
    """The disk around a node with 1 GB of data, against qemu-img convert of that node alone."""
    node = bench.disk(FILESYSTEM)
    with started(bench, node) as running:
        running.format("ext4")
        running.mount()
        script = "for i in 1 2 3 4; do dd if=/dev/urandom of=/sysroot/data$i bs=1M count=256 status=none; done"
        running.guest.run(Command(script, place="appliance"))
        running.trim()
    layout = Layout("gpt", (Part("bios-boot", 1 << 20), Part("root")))
    table = table_of(layout, 8 << 30, uuid.uuid4(), {})
    finished = Finished(node.parent, "")
    plain, composed = bench.home / "plain.raw", bench.home / "composed.raw"

    def clear() -> None:
        for path in (plain, composed):
            path.unlink(missing_ok=True)

    def convert() -> None:
        qcow2.qemu_img("convert", "-f", "qcow2", "-O", "raw", node, plain)

    def ours() -> None:
        make(finished, layout, table, "x86_64", composed).raw(lambda done: None)

    theirs, mine = alternately([convert, ours], 5, clear)
    return [Result("compose a disk / qemu-img convert", mine, theirs, 1.3)]
