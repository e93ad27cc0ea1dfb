"""A machine that lacks something: QEMU, a libvirt daemon, a KVM that works."""

import json
import os
import shutil
import subprocess
import sys
import threading

import pytest

from sfvm import qcow2
from sfvm.appliance import acceleration, hypervisor
from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Drive, Shape
from sfvm.appliance.profile import TCG
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.config import Settings
from sfvm.errors import ApplianceError
from sfvm.events import ignore
from tests.guests.project import eventually

pytestmark = pytest.mark.vm
HIDDEN = """set -e
for program in "$@"; do mount --bind /dev/null "$(command -v "$program")"; done
exec "$PYTHON" -m sfvm.cli build trunk
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can hide a program")
@pytest.mark.parametrize("program", ["qemu-system-x86_64", "qemu-img"])
def test_no_qemu(project, program):
    """The program cannot be executed: hidden below another file, in a mount namespace of the test's own."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", HIDDEN, "sh", program],
        cwd=project.home,
        env={**project.environment, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare failed" in done.stderr:
        pytest.skip("this machine has no mount namespaces")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not list((project.home / "state").glob("sfvm/crash-*"))
    assert program in done.stderr
    assert "try:" in done.stderr
    project.sound()


def with_emulator(image, directory, instead):
    """*image* with an emulator that does *instead* (sh) where a VM would start."""
    directory.mkdir()
    for path in image.directory.iterdir():
        if path.name not in ("qemu", f".guestfs-{os.geteuid()}"):
            (directory / path.name).symlink_to(path)
    emulator = directory / "qemu"
    real = shutil.which("qemu-system-x86_64")
    emulator.write_text(
        f'#!/bin/sh\ncase " $* " in *" -nodefaults "*-append*) {instead} ;; esac\nexec {real} "$@"\n', encoding="utf-8"
    )
    emulator.chmod(0o755)
    return Image(directory, image.digest)


def test_an_explicit_connection_that_nobody_answers(project):
    done = project.sfvm("build", "trunk", "--connection", "qemu+unix:///session?socket=/nonexistent/s", status=1)
    assert "no libvirt daemon answers at qemu+unix:///session" in done.stderr
    assert "--connection direct" in done.stderr


def test_a_word_that_is_no_connection(project):
    assert "no connection" in project.sfvm("build", "trunk", "--connection", "qemo", status=2).stderr


def test_without_a_daemon_qemu_is_started_directly(monkeypatch):
    """``auto`` for an ordinary user whose libvirt session does not answer: direct, and said once."""
    monkeypatch.setattr(hypervisor, "SESSION", "qemu+unix:///session?socket=/nonexistent/s")
    monkeypatch.setattr(hypervisor.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(hypervisor.shutil, "which", lambda name, path=None: "/usr/sbin/libvirtd")
    told = []
    assert hypervisor.choose("auto", told.append) == "direct"
    assert [type(event).__name__ for event in told] == ["Notice"]
    assert "does not answer" in told[0].message


def test_a_kvm_that_is_there_and_runs_nothing(image, tmp_path, monkeypatch):
    """``/dev/kvm`` opens, QEMU with KVM ends at once: emulation, the reason is told, and the answer is remembered."""
    count = tmp_path / "count"
    broken = with_emulator(image, tmp_path / "image", f"echo >>{count}; echo 'kvm: no such MSR' >&2; exit 1")
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(acceleration, "DEVICE", device)
    settings = Settings(repository=tmp_path / "repository", cache=tmp_path / "cache")
    told = []
    found = acceleration.probe(broken, settings, told.append)
    assert found.profile == TCG
    assert "does not run the appliance" in found.reason
    assert any("QEMU emulates" in getattr(event, "message", "") for event in told)
    assert acceleration.probe(broken, settings, told.append) == found
    assert count.read_text(encoding="utf-8").count("\n") == 1
    assert json.loads((tmp_path / "cache" / "acceleration.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("warm", [True, False])
def test_a_launch_that_would_not_end_is_ended(image, tmp_path, monkeypatch, warm):
    """QEMU says nothing; the work is asked to end from another thread, as Ctrl-C during a build does."""
    monkeypatch.setattr(acceleration, "prove", lambda *about: TCG)
    began = tmp_path / "began"
    endless = with_emulator(
        image, tmp_path / "image", f"touch {began}; exec {sys.executable} -c 'import time; time.sleep(1000)' \"$@\""
    )
    qcow2.create(tmp_path / "disk.qcow2", size=64 << 20)
    stop, errors = Cancellation(), []

    def work():
        settings = Settings(
            repository=tmp_path / "repository", cache=tmp_path / "cache", connection="direct", warm=warm
        )
        with pytest.raises(Cancelled):
            launch(endless, [Drive(tmp_path / "disk.qcow2")], Shape(memory=768, cpus=1), settings,
                   log=print, listener=ignore, stop=stop).close()  # fmt: skip
        errors.append("cancelled")

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    assert eventually(began.exists, 60)
    stop.cancel()
    worker.join(60)
    assert errors == ["cancelled"]


def test_no_libguestfs(tmp_path, monkeypatch):
    from sfvm.appliance import image as images

    monkeypatch.setattr(images, "STOCK", (str(tmp_path),))
    with pytest.raises(ApplianceError) as failed:
        images.ensure(tmp_path / "cache", lambda event: None)
    assert "./bootstrap" in failed.value.render()
