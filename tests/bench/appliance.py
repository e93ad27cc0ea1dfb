"""The helper VM: how soon it is ready, and what a checkpoint costs."""

from __future__ import annotations

import functools
import statistics
import time
from contextlib import AbstractContextManager
from pathlib import Path

from sfvm import qcow2
from sfvm.appliance import acceleration, image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.events import ignore
from tests.bench.measure import Bench, Result, timed


def started(bench: Bench, disk: Path) -> AbstractContextManager[Appliance]:
    """An appliance with one disk."""
    made = image.ensure(bench.settings.cache, ignore)
    return launch(made, [Drive(disk)], Shape(cpus=2), bench.settings, log=lambda line: None, listener=ignore)


def appliance(bench: Bench) -> list[Result]:
    """Ours and libguestfs's stock appliance alternately; same kernel, same accelerator, 2 CPUs, network. Each has been
    launched once before: supermin builds its image then, and we save the VM."""
    made = image.ensure(bench.settings.cache, ignore)
    accelerator = acceleration.prove(made, bench.settings, ignore).name
    disk = bench.disk("launch.qcow2")
    ours: list[float] = []
    theirs: list[float] = []
    for turn in range(4):
        begun = time.monotonic()
        with started(bench, disk):
            ready = time.monotonic() - begun
        stock = _stock(disk, accelerator)
        if turn:
            ours.append(ready)
            theirs.append(stock)
    return [
        Result("appliance ready, warm / stock libguestfs", statistics.median(ours), statistics.median(theirs), 0.15)
    ]


def _stock(disk: Path, accelerator: str) -> float:
    """The seconds until libguestfs's own appliance is ready."""
    import guestfs

    handle = guestfs.GuestFS(python_return_dict=True)
    handle.set_backend("direct")
    handle.set_backend_setting("force_kvm" if accelerator == "kvm" else "force_tcg", "1")
    handle.set_smp(2)
    handle.set_memsize(1024)
    handle.set_network(True)
    handle.add_drive_opts(str(disk), format="qcow2")
    seconds = timed(handle.launch)
    handle.close()
    return seconds


def checkpoint(bench: Bench) -> list[Result]:
    """Checkpoints of an 8 GiB and a 64 GiB filesystem."""
    rows = []
    for size in (8, 64):
        path = bench.home / f"checkpoint-{size}.qcow2"
        qcow2.create(path, size=size << 30)
        with started(bench, path) as running:
            running.format("ext4")
            running.mount()
            seconds = []
            for number in range(5):
                running.guest.write(f"/file-{number}", b"x" * 4096)
                overlay = bench.home / f"checkpoint-{size}-{number}.qcow2"
                seconds.append(timed(functools.partial(running.checkpoint, overlay)))
        rows.append(Result(f"checkpoint, {size} GiB filesystem", statistics.median(seconds), None, 0.5))
    return rows
