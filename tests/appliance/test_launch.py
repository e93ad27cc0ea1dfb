"""The life of an appliance: checkpoints, faults, and that nothing of it stays behind, however it ends."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sfvm.appliance import machine as launching
from sfvm.appliance.image import Image
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.appliance.profile import TCG, Profile
from sfvm.errors import ApplianceError
from sfvm.guest import Command
from tests.guests.project import eventually, running

pytestmark = pytest.mark.vm

PROGRAM = """
import signal, sys, time
from pathlib import Path
from sfvm.appliance.image import ensure
from sfvm.appliance.machine import Drive, Shape, start
from sfvm.appliance.profile import TCG
from sfvm.errors import Interrupted
from sfvm.events import ignore

def interrupted(number, frame):
    raise Interrupted(number)

signal.signal(signal.SIGTERM, interrupted)
image = ensure(Path(sys.argv[1]), ignore)
with start(image, [Drive(Path(sys.argv[2]))], Shape(memory=768), "direct", TCG, log=print) as appliance:
    sockets = (appliance.directory / "sockets").read_text().strip()
    print(appliance.hypervisor.pid, appliance.directory, sockets, flush=True)
    while True:  # a signal just before signal.pause() would not end that
        time.sleep(1)
"""


def empty(path: Path) -> Path:
    """A disk without anything on it."""
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1G"], check=True)
    return path


def start(image: Image, path: Path, profile: Profile = TCG, readonly: bool = False, *more: Path) -> Appliance:
    """An appliance, QEMU started directly."""
    drives = [Drive(path, readonly=readonly), *(Drive(other, readonly=True) for other in more)]
    return launching.start(image, drives, Shape(memory=768, cpus=1), "direct", profile, log=lambda line: None)


def ended(process: "subprocess.Popen[str]") -> int:
    """How *process* has ended, which it must."""
    try:
        return process.wait(120)
    finally:
        process.kill()


def traces(appliance: Appliance) -> Callable[[], list[str]]:
    """What to ask later: what is left of *appliance*."""
    pid = appliance.hypervisor.pid  # type: ignore[attr-defined]
    sockets = Path((appliance.directory / "sockets").read_text(encoding="utf-8").strip())
    assert running(pid)
    assert sockets.is_dir()
    return lambda: [str(pid)] * running(pid) + [str(path) for path in (appliance.directory, sockets) if path.exists()]


def test_a_checkpoint_freezes_what_was_before(image: Image, tmp_path: Path) -> None:
    first, second, third = empty(tmp_path / "a.qcow2"), tmp_path / "b.qcow2", tmp_path / "c.qcow2"
    with start(image, first) as appliance:
        left = traces(appliance)
        appliance.format("ext4")
        appliance.mount()
        appliance.guest.write("/state", b"one")
        appliance.checkpoint(second)
        frozen = first.stat()
        appliance.guest.write("/state", b"two")
        appliance.checkpoint(third)
        appliance.guest.write("/state", b"three")
        assert first.stat() == frozen
        assert appliance.guest.read("/state") == b"three"
    assert left() == []
    with start(image, first, TCG, True, second, third) as appliance:
        states = [
            appliance.run(f"mkdir -p /m && mount -o ro {appliance.device(index)} /m && cat /m/state; umount /m")
            for index in range(3)
        ]
    assert states == ["one", "two", "three"]


def test_trim(image: Image, tmp_path: Path) -> None:
    disk = empty(tmp_path / "a.qcow2")
    with start(image, disk) as appliance:
        appliance.format("ext4")
        appliance.mount()
        appliance.guest.run(Command("dd if=/dev/urandom of=/sysroot/big bs=1M count=100", place="appliance"))
        appliance.unmount()
        full = disk.stat().st_blocks
        appliance.mount()
        appliance.guest.remove("/big")
        appliance.trim()
        appliance.unmount()
        assert disk.stat().st_blocks * 512 < full * 512 - (90 << 20)
        features = appliance.run(f"dumpe2fs -h {appliance.device(0)}")
        assert "metadata_csum_seed" not in features
        assert "orphan_file" not in features


def test_a_vm_killed_during_a_command(image: Image, tmp_path: Path) -> None:
    with start(image, empty(tmp_path / "a.qcow2")) as appliance:
        left = traces(appliance)
        timer = threading.Timer(1, appliance.kill)
        timer.start()
        with pytest.raises(ApplianceError):
            appliance.run("sleep 60")
        timer.join()
        assert not appliance.alive()
        with pytest.raises(ApplianceError):
            appliance.run("true")
        with pytest.raises(ApplianceError):
            appliance.mount()
    assert left() == []


def test_temporary_files_of_qemu_go_with_the_appliance(image: Image, tmp_path: Path) -> None:
    """It removes them as soon as it has opened them, unless it is killed just then."""
    with start(image, empty(tmp_path / "a.qcow2")) as appliance:
        pid = appliance.hypervisor.pid  # type: ignore[attr-defined]
        opened = [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir()]
        assert {path.parent for path in opened if path.name.startswith("vl.")} == {appliance.directory}


def test_the_last_words_of_a_dead_vm_are_in_the_error(image: Image, tmp_path: Path) -> None:
    with start(image, empty(tmp_path / "a.qcow2")) as appliance:
        left = traces(appliance)
        with pytest.raises(ApplianceError) as failed:
            appliance.run("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60")
        assert any("Kernel panic" in line for line in failed.value.detail), failed.value.detail
    assert left() == []


def test_a_vm_that_dies_at_a_checkpoint(image: Image, tmp_path: Path) -> None:
    with start(image, empty(tmp_path / "a.qcow2")) as appliance:
        appliance.format("ext4")
        appliance.mount()
        appliance.kill()
        with pytest.raises(ApplianceError):
            appliance.checkpoint(tmp_path / "b.qcow2")


def test_a_boot_that_takes_too_long_ends(image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("sfvm.appliance.scratch._home", lambda: scratch)
    with pytest.raises(ApplianceError) as failed:
        start(image, empty(tmp_path / "a.qcow2"), dataclasses.replace(TCG, boot_seconds=1))
    assert any("not ready after 1 s" in line for line in failed.value.detail)
    assert list(scratch.iterdir()) == []


def test_a_missing_disk_is_told(image: Image, tmp_path: Path) -> None:
    with pytest.raises(ApplianceError) as failed:
        start(image, tmp_path / "missing.qcow2")
    assert "missing.qcow2" in failed.value.render()


def test_an_exception_leaves_nothing(image: Image, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), start(image, empty(tmp_path / "a.qcow2")) as appliance:
        left = traces(appliance)
        raise KeyboardInterrupt
    assert left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_leave_nothing(image: Image, tmp_path: Path, number: signal.Signals) -> None:
    disk = empty(tmp_path / "a.qcow2")
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(image.directory.parent.parent), str(disk)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        pid, *directories = process.stdout.readline().split()
        assert running(int(pid))
        os.kill(process.pid, number)
        ended(process)
    assert eventually(lambda: not running(int(pid)))
    if number == signal.SIGKILL:  # nobody was left to clean up: the next one does
        start(image, disk).close()
    assert [directory for directory in directories if Path(directory).exists()] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("phase", ["launch", "command"])
def test_signals_end_what_is_going_on(image: Image, tmp_path: Path, number: signal.Signals, phase: str) -> None:
    program = PROGRAM.replace("time.sleep(1)", 'appliance.run("sleep 1000")')
    with subprocess.Popen(
        [sys.executable, "-c", program, str(image.directory.parent.parent), str(empty(tmp_path / "a.qcow2"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None

        def emulators() -> list[str]:
            found = subprocess.run(["pgrep", "-f", f"qemu-system.*{tmp_path}"], capture_output=True, check=False)
            return found.stdout.decode().split()

        assert eventually(lambda: emulators() != [], 60)
        if phase == "command":
            process.stdout.readline()
        os.kill(process.pid, number)
        assert ended(process) != 0
    assert emulators() == []
