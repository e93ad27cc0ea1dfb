"""An ordinary user: image, kernel and launches over the user's own libvirt session. Only root can become one."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.project import eventually
from tests.peers.daemons import end_daemons

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.skipif(not shutil.which("libvirtd", path="/usr/sbin:/usr/bin"), reason="libvirtd is not installed"),
]

PROLOGUE = """
import contextlib, subprocess, sys, threading, time
from pathlib import Path
from sfvm.appliance.image import ensure
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Drive, Shape
from sfvm.config import Settings
from sfvm.errors import ApplianceError
from sfvm.events import Notice, ignore
home = Path.home()
image = ensure(home / "cache", ignore)
subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", home / "a.qcow2", "1G"], check=True)
settings = Settings(repository=home / "repository", cache=home / "cache")
lines, told = [], []
def listen(event):
    if isinstance(event, Notice):
        told.append(event.message)
def boot():
    return launch(image, [Drive(home / "a.qcow2")], Shape(memory=768), settings, log=lines.append, listener=listen)
"""
WHOLE_LIFE = """
with boot() as appliance:
    assert appliance.connection == "qemu:///session", appliance.connection
    appliance.format("ext4")
    appliance.mount()
    appliance.guest.write("/state", b"one")
    appliance.checkpoint(home / "b.qcow2")
    frozen = (home / "a.qcow2").stat()
    appliance.guest.write("/state", b"two")
    assert (home / "a.qcow2").stat() == frozen
    assert appliance.run(f"cat /sysroot/state; blkid -o value -s TYPE {appliance.device(0)}") == "twoext4\\n"
    def kill():
        while "begun" not in lines:
            time.sleep(0.05)
        appliance.kill()
    threading.Thread(target=kill, daemon=True).start()
    try:
        appliance.run("echo begun >&2; sleep 60")
    except ApplianceError:
        print("died as it should")
    assert lines[-1] == "begun"
for path in Path("/tmp").glob("sfvm-vm-*"):
    with contextlib.suppress(FileNotFoundError):  # of a test beside this one
        if path.owner() == home.owner():
            print(path)
print("that was all")
"""
RESTORED = """
import time
from sfvm.appliance.warm import Store
store = Store(settings.saved_appliances)
store.collect(unused=0)
drawn = set()
for restored in (False, True, True):
    with boot() as appliance:
        assert appliance.connection == "qemu:///session", appliance.connection
        assert appliance.restored == restored, (appliance.restored, told)
        told_time, *random = appliance.run("date +%s; uuidgen; head -c 32 /dev/urandom | base64").split()
        assert abs(int(told_time) - time.time()) < 60
        drawn.update(random)
        appliance.format("ext4")
        appliance.mount()
        appliance.guest.write("/state", b"one")
        (home / "c.qcow2").unlink(missing_ok=True)
        appliance.checkpoint(home / "c.qcow2")
        assert appliance.guest.read("/state") == b"one"
assert len(drawn) == 6, drawn
print(len(store.states()), told)
"""
SUPPLIED = """
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.guest import PROXY, Command
with boot() as appliance:
    appliance.format("ext4")
    appliance.mount()
    transfers = Transfers(Store(home / "downloads"))
    appliance.supplied(Access(transfers, Policy()), home / "exchange", listen)
    command = Command("echo $http_proxy; read -r disk </run/sfvm/supply; blockdev --getsize64 $disk",
                      place="appliance", packages=True)
    proxy, size = appliance.guest.capture(command).split()
    assert proxy == PROXY, proxy
    assert int(size) == (home / "exchange").stat().st_size
    appliance.checkpoint(home / "d.qcow2")
print(told, (home / "exchange").exists())
"""
WAITING = """
with boot() as appliance:
    print(appliance.directory, flush=True)
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A home directory of the user nobody, in /tmp; the libvirt daemons started from it end with the module."""
    with tempfile.TemporaryDirectory(prefix="nobody-", dir="/tmp") as directory:
        shutil.chown(directory, "nobody")
        yield Path(directory)
        end_daemons(Path(directory))


def output(process: "subprocess.Popen[str]") -> str:
    """What *process* has written at its end, which must come."""
    try:
        return process.communicate(timeout=600)[0]
    finally:
        process.kill()


def start(home: Path, program: str) -> "subprocess.Popen[str]":
    """*program* as the user nobody."""
    environment = {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + program],
        env=environment,
        cwd=home,
        stdout=subprocess.PIPE,
        text=True,
        user="nobody",
        group="nogroup",
        extra_groups=[],
    )


def emulators(home: Path) -> list[str]:
    """The QEMU processes on disks in *home*."""
    found = subprocess.run(["pgrep", "-f", f"qemu-system.*{home}"], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_a_whole_life_over_libvirt(home: Path) -> None:
    with start(home, WHOLE_LIFE) as process:
        told = output(process)
    assert process.returncode == 0
    assert told.split("\n") == ["died as it should", "that was all", ""]
    assert emulators(home) == []


def test_a_domain_is_saved_and_restored(home: Path) -> None:
    with start(home, RESTORED) as process:
        told = output(process)
    assert process.returncode == 0
    assert told == "1 []\n"
    assert emulators(home) == []


def test_a_domain_is_supplied_with_packages(home: Path) -> None:
    with start(home, SUPPLIED) as process:
        told = output(process)
    assert process.returncode == 0
    assert told == "[] False\n"
    assert emulators(home) == []


def test_kill_minus_nine_ends_the_domain(home: Path) -> None:
    with start(home, WAITING) as process:
        assert process.stdout is not None
        directory = process.stdout.readline().strip()
        assert len(emulators(home)) == 1
        process.kill()
    assert eventually(lambda: not emulators(home), 120), emulators(home)
    with start(home, "boot().close()") as process:
        output(process)
    assert not Path(directory).exists()
