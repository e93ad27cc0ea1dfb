"""The bench: ratios within one run, never a test. ``./bootstrap nox -s bench [-- --only NAME,…]``.

Prints a table with the machine and the accelerator, and writes bench.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sfvm import config, qcow2
from sfvm.appliance import acceleration, image, kernel
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Drive, Shape
from sfvm.events import ignore
from sfvm.guest import Command
from sfvm.repository import Manifest, Repository
from sfvm.spec.library import Library
from sfvm.tree import resolve


@dataclass(frozen=True)
class Result:
    """One row: what was measured against what, in seconds unless *unit* says otherwise; *target* is for the ratio,
    or for *ours* where there is nothing to compare with."""

    name: str
    ours: float
    theirs: float | None
    target: str
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.theirs if self.theirs else None


def timed(action: Callable[[], object]) -> float:
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def sfvm(*arguments: str, home: Path, more: dict[str, str] | None = None) -> None:
    subprocess.run(
        [sys.executable, "-m", "sfvm.cli", *arguments],
        env={**os.environ, "SFVM_HOME": str(home / "repository"), **(more or {})},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def disk(home: Path, name: str) -> Path:
    path = home / name
    qcow2.create(path, size=8 << 30)
    return path


def bench_appliance(home: Path, settings: config.Settings) -> list[Result]:
    """Launch ours and libguestfs's stock appliance alternately; same kernel, same accelerator, 2 CPUs, network."""
    import guestfs

    made = image.ensure(settings.cache, ignore)
    profile = acceleration.prove(made, settings, ignore)

    def stock() -> None:
        handle = guestfs.GuestFS(python_return_dict=True)
        handle.set_backend("direct")
        handle.set_backend_setting("force_kvm" if profile.name == "kvm" else "force_tcg", "1")
        handle.set_smp(2)
        handle.set_memsize(1024)
        handle.set_network(True)
        handle.add_drive_opts(str(path), format="qcow2")
        handle.launch()
        nonlocal stock_ready
        stock_ready = time.monotonic()
        handle.close()

    path, stock_ready = disk(home, "launch.qcow2"), 0.0
    stock()  # supermin builds its image the first time
    ours, theirs = [], []
    for _ in range(3):
        begun = time.monotonic()
        with launch(made, [Drive(path)], Shape(), settings, log=lambda line: None, listener=ignore):
            ours.append(time.monotonic() - begun)
        begun = time.monotonic()
        stock()
        theirs.append(stock_ready - begun)
    return [Result("appliance ready / stock libguestfs", statistics.median(ours), statistics.median(theirs), "<= 0.6")]


def bench_cached(home: Path, settings: config.Settings) -> list[Result]:
    """A chain of 1,000 nodes, all built: what `sfvm build` of its leaf and of all names takes."""
    specs = home / "specs"
    specs.mkdir()
    head = '<filesystem xmlns="urn:sfvm:1" name="n{}" {}'
    root = head.format(0, '><disk size="1M" format="ext4"/><base><empty/></base></filesystem>')
    (specs / "n0.xml").write_text(root)
    for number in range(1, 1000):
        text = head.format(number, f'parent="n{number - 1}">')
        steps = f'<steps><file path="/n{number}">{number}</file></steps></filesystem>'
        (specs / f"n{number}.xml").write_text(text + steps)
    repository = Repository(home / "repository")
    nodes = resolve(Library([specs]), ["n999"], {})
    empty = home / "empty.qcow2"
    qcow2.create(empty, size=1 << 20)
    for node in nodes:  # as published nodes would lie there, without building them
        repository.make()
        overlay = repository.overlay(node.key)
        shutil.copy(empty, overlay)
        parent = node.parent
        manifest = Manifest(
            key=node.key, name=node.name, parent=parent.key if parent else None,
            parent_name=parent.name if parent else None, inputs=node.inputs, spec="", steps=(),
            digest=qcow2.digest(overlay), size=overlay.stat().st_size, disk=1 << 20, filesystem="ext4", facts={},
            packages=(), created=time.time(), seconds=1.0, provenance={}, depth=node.depth, origin=node.key,
        )  # fmt: skip
        (repository.nodes / f"{node.key}.json").write_bytes(manifest.dump())
        repository.point(node.name, node.key)
    names = [node.name for node in nodes]
    rows = []
    for what, wanted in (("leaf", ["n999"]), ("all names", names)):
        seconds = statistics.median(
            timed(lambda wanted=wanted: sfvm("build", *wanted, "--specs", str(specs), home=home)) for _ in range(3)
        )
        rows.append(Result(f"1,000 nodes cached, build of the {what}", seconds, None, "<= 1.0 s"))
    words = [sys.executable, "-m", "sfvm.cli", "build", *names, "--specs", str(specs)]
    environment = {**os.environ, "SFVM_HOME": str(home / "repository")}
    child = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory = os.wait4(child.pid, 0)[2].ru_maxrss / 1024
    rows.append(Result("1,000 nodes cached, memory in MiB", memory, None, "<= 150 MiB"))
    return rows


def bench_checkpoint(home: Path, settings: config.Settings) -> list[Result]:
    """Checkpoints of an 8 GiB and a 64 GiB filesystem."""
    made = image.ensure(settings.cache, ignore)
    rows = []
    for size in (8, 64):
        path = home / f"checkpoint-{size}.qcow2"
        qcow2.create(path, size=size << 30)
        with launch(made, [Drive(path)], Shape(), settings, log=lambda line: None, listener=ignore) as appliance:
            appliance.format("ext4")
            appliance.mount()
            seconds = []
            for number in range(5):
                appliance.guest.write(f"/file-{number}", b"x" * 4096)
                overlay = home / f"checkpoint-{size}-{number}.qcow2"
                seconds.append(timed(lambda overlay=overlay: appliance.checkpoint(overlay)))
            rows.append(Result(f"checkpoint, {size} GiB filesystem", statistics.median(seconds), None, "<= 0.5 s"))
    return rows


def bench_edit(home: Path, settings: config.Settings) -> list[Result]:
    """A changed file in the leaf of a five deep tree, to a new qcow2; and the same by virt-customize."""
    specs = home / "edit"
    specs.mkdir()
    # virt-customize wants to know a distribution before it writes anything.
    release = "ID=debian&#10;VERSION_ID=12&#10;PRETTY_NAME=Debian&#10;"
    looks = f'<file path="/etc/os-release">{release}</file><file path="/etc/debian_version">12.0&#10;</file>'
    for number in range(1, 5):
        parent = "busybox" if number == 1 else f"e{number - 1}"
        (specs / f"e{number}.xml").write_text(
            f'<filesystem xmlns="urn:sfvm:1" name="e{number}" parent="{parent}"><param name="text" default="a"/>'
            f'<steps><file path="/e{number}">${{text}}</file>{looks if number == 1 else ""}</steps></filesystem>'
        )
    build = ("build", "e4", "--specs", str(specs))
    bundle = ("--bundle", "qcow2", "--set", "boot=none", "--output", str(home / "out"))
    sfvm(*build, home=home)
    ours = timed(lambda: sfvm(*build, "--param", "e4:text=b", *bundle, home=home))
    start, copy, result = home / "out" / "e4-qcow2" / "e4.qcow2", home / "copy.qcow2", home / "result.qcow2"

    def customize() -> None:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", start, "-F", "qcow2", copy], check=True)
        environment = {**os.environ, "LIBGUESTFS_BACKEND": "direct"}
        words = ["virt-customize", "-q", "--no-network", "--format", "qcow2", "-a", str(copy), "--write", "/e4:c"]
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", copy, result], check=True)

    return [Result("edit in a leaf to qcow2 / virt-customize + convert", ours, timed(customize), "<= 1.0")]


def bench_compose(home: Path, settings: config.Settings) -> list[Result]:
    """The disk around a node with 1 GB of data, against qemu-img convert of that node alone."""
    from sfvm.bundle.compose import compose
    from sfvm.bundle.finish import Finished
    from sfvm.bundle.layout import Layout
    from sfvm.errors import Place

    node = disk(home, "compose.qcow2")
    made = image.ensure(settings.cache, ignore)
    with launch(made, [Drive(node)], Shape(), settings, log=lambda line: None, listener=ignore) as appliance:
        appliance.format("ext4")
        appliance.mount()
        script = "for i in 1 2 3 4; do dd if=/dev/urandom of=/sysroot/data$i bs=1M count=256 status=none; done"
        appliance.guest.run(Command(script, place="appliance"))
        appliance.trim()
    layout = Layout(True, None, "none", (), "", 1, Place(Path("bench"), 1))
    ours, theirs = [], []
    for number in range(3):
        plain, composed = home / f"plain-{number}.raw", home / f"composed-{number}.raw"
        theirs.append(timed(lambda plain=plain: qcow2.qemu_img("convert", "-f", "qcow2", "-O", "raw", node, plain)))
        finished = Finished(node, None, b"", b"")
        ours.append(timed(lambda c=composed, f=finished: compose(f, layout, 8 << 30, "x86_64", c, lambda done: None)))
        plain.unlink()
        composed.unlink()
    return [Result("compose a disk / qemu-img convert", statistics.median(ours), statistics.median(theirs), "<= 1.3")]


def bench_debian(home: Path, settings: config.Settings) -> list[Result]:
    """A cold Debian with kernel, and the same packages by mmdebstrap natively (needs root)."""
    events = home / "events.jsonl"
    seconds = timed(lambda: sfvm("build", "debian", "--events", str(events), home=home))
    started: dict[int, str] = {}
    phases = []
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "ApplianceStarted":
            phases.append(("appliance", event["seconds"]))
        elif event["event"] == "StepStarted":
            started[event["index"]] = event["title"]
        elif event["event"] == "StepFinished":
            phases.append((started[event["index"]][:24], event["seconds"]))
    share = ", ".join(f"{name} {spent / seconds:.0%}" for name, spent in phases if spent > seconds / 100)
    if os.geteuid() != 0:
        return [Result("cold Debian with kernel", seconds, None, "reported", share)]
    include = "systemd,systemd-sysv,dbus,udev,iproute2,linux-image-cloud-amd64,initramfs-tools,zstd"
    include += ",grub-common,grub2-common,grub-pc-bin,grub-efi-amd64-bin"
    words = ["mmdebstrap", "--mode=root", "--variant=minbase", f"--include={include}", "bookworm", str(home / "native")]
    native = timed(lambda: subprocess.run(words, check=True, capture_output=True))
    return [Result("cold Debian with kernel / mmdebstrap natively", seconds, native, "reported", share)]


BENCHES = {
    "appliance": bench_appliance,
    "cached": bench_cached,
    "checkpoint": bench_checkpoint,
    "edit": bench_edit,
    "compose": bench_compose,
    "debian": bench_debian,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(BENCHES), help="names, separated by commas: " + ", ".join(BENCHES))
    wanted = parser.parse_args().only.split(",")
    settings = config.load(connection="direct")
    made = image.ensure(settings.cache, ignore)
    profile = acceleration.probe(made, settings, ignore)
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    machine = f"{platform.platform()}, {os.cpu_count()} CPUs, {profile.profile.name} ({profile.reason}), {qemu}"
    print(machine)
    chosen = kernel.find(settings.cache, ignore)  # the tools that we compare with get the same kernel
    os.environ["SUPERMIN_KERNEL"], os.environ["SUPERMIN_MODULES"] = str(chosen.path), str(chosen.modules)
    os.environ["LIBGUESTFS_BACKEND_SETTINGS"] = "force_kvm" if profile.profile.name == "kvm" else "force_tcg"
    results: list[Result] = []
    for name in wanted:
        with tempfile.TemporaryDirectory(prefix="sfvm-bench-", dir="/var/tmp") as directory:
            rows = BENCHES[name](Path(directory), settings)
        for row in rows:
            theirs = f"{row.theirs:8.2f}" if row.theirs is not None else " " * 8
            ratio = f"{row.ratio:6.2f}" if row.ratio is not None else " " * 6
            print(f"{row.name:52} {row.ours:8.2f} {theirs} {ratio}  {row.target:10} {row.note}", flush=True)
        results += rows
    content = {"machine": machine, "results": [{**asdict(row), "ratio": row.ratio} for row in results]}
    Path("bench.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
