"""Saved appliances in real QEMU: restored ones are as good as booted ones, and nothing that is wrong with a state fails
a launch."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from sfvm.appliance import acceleration, handshake, warm
from sfvm.appliance import launch as launching
from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.appliance.qmp import Refused
from sfvm.appliance.warm import Store
from sfvm.config import Settings
from sfvm.events import Notice, ignore

pytestmark = pytest.mark.vm
CACHE = platformdirs.user_cache_path("sfvm")
SHAPE = Shape(memory=768)


class Launcher:
    """Launches appliances with a cache of their own for saved ones; *notices* are what users are told."""

    def __init__(self, image: Image, home: Path) -> None:
        acceleration.prove(image, Settings(home, CACHE), ignore)
        self.image, self.home = image, home
        self.settings = Settings(home / "repository", home / "cache", "direct")
        self.settings.cache.mkdir()
        if (CACHE / "acceleration.json").exists():
            shutil.copy(CACHE / "acceleration.json", self.settings.cache)
        self.store = Store(self.settings.saved_appliances)
        self.notices: list[str] = []

    def disk(self, size: str = "1G") -> Path:
        path = self.home / f"disk-{time.monotonic_ns()}.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True)
        return path

    def listen(self, event: object) -> None:
        if isinstance(event, Notice):
            self.notices.append(event.message)

    def __call__(self, path: Path | None = None, **changes: object) -> Appliance:
        settings = dataclasses.replace(self.settings, **changes)
        drives = [Drive(path or self.disk())]
        return launch(self.image, drives, SHAPE, settings, log=lambda line: None, listener=self.listen)

    def save(self) -> Path:
        """Launch once; return the file of the state that was saved."""
        with self() as appliance:
            assert not appliance.restored
        (state,) = self.store.states()
        return state

    def rewrite(self, state: Path, content: bytes) -> None:
        """Replace the bytes of a state, and its record as if they had been saved."""
        state.write_bytes(content)
        record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        state.with_suffix(".json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def kept(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """One that has saved an appliance."""
    made = Launcher(image, tmp_path_factory.mktemp("kept"))
    made.save()
    return made


@pytest.fixture
def launcher(kept: Launcher, tmp_path: Path) -> Launcher:
    """One with a copy of that state."""
    made = Launcher(kept.image, tmp_path)
    shutil.copytree(kept.store.directory, made.store.directory)
    return made


def works(appliance: Appliance) -> bool:
    """Whether one can build in it."""
    appliance.format("ext4")
    appliance.mount()
    appliance.guest.write("/file", b"content")
    return appliance.guest.read("/file") == b"content"


def test_a_restored_one_sees_its_own_disk_and_the_time(launcher: Launcher) -> None:
    with launcher(launcher.disk("3G")) as appliance:
        assert appliance.restored
        assert works(appliance)
        size, seconds = appliance.run(f"blockdev --getsize64 {appliance.device(0)}; date +%s").split()
        assert int(size) == 3 << 30
        assert abs(int(seconds) - time.time()) < 60
        assert "169.254.2.15" in appliance.tool("cat /proc/net/fib_trie"), "the network's state is restored, too"
        appliance.checkpoint(launcher.home / "over.qcow2")
        assert appliance.guest.read("/file") == b"content"
    assert launcher.notices == []
    (state,) = launcher.store.states()
    found = launcher.store.find(state.stem)
    assert found is not None and found.proved


def test_what_a_disk_holds_is_seen_after_a_restore(launcher: Launcher) -> None:
    """The saved VM has seen another disk, of the same size, at the same place."""
    path = launcher.disk()
    with launcher(path, warm=False) as appliance:
        assert not appliance.restored
        assert works(appliance)
    with launcher(path) as appliance:
        assert appliance.restored
        appliance.mount()
        assert appliance.guest.read("/file") == b"content"


def test_the_memory_of_a_restored_one_fits_its_own_file_system(launcher: Launcher) -> None:
    """Directories in new places take the inodes that the boot would have taken, had it written before it was saved."""
    with launcher(launcher.disk()) as appliance:
        assert appliance.restored
        appliance.run("for place in /var/cache /usr/share /etc /home; do mkdir $place/{a,b,c,d}; done")
        assert appliance.run("dmesg | grep -c 'EXT4-fs error' || true") == "0\n"


def test_a_hundred_restores_draw_a_hundred_times(launcher: Launcher) -> None:
    script = (
        "uuidgen; cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom | base64;"
        "head -c 32 /dev/random | base64; echo $SRANDOM$SRANDOM; perl -e 'print rand, qq(\\n)'; mktemp -u XXXXXXXXXXXX"
    )
    path = launcher.disk()
    drawn = []
    for _ in range(100):
        with launcher(path) as appliance:
            assert appliance.restored
            drawn.append(appliance.run(script).splitlines())
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 100, values
    assert len(drawn[0]) == 8


def boots(launcher: Launcher, why: str) -> None:
    """The launch goes well without the state, says *why* in one line, and the state is gone."""
    with launcher() as appliance:
        assert not appliance.restored
        assert works(appliance)
    (notice,) = launcher.notices
    assert why in notice
    assert "boots" in notice


def test_a_truncated_state(launcher: Launcher) -> None:
    (state,) = launcher.store.states()
    os.truncate(state, state.stat().st_size // 2)
    boots(launcher, "bytes, not")
    with launcher() as appliance:  # it was saved anew
        assert appliance.restored


def test_changed_memory_never_runs(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    (state,) = launcher.store.states()
    # A word of appliance/wait, which is in memory: QEMU's stream itself stays sound.
    content = state.read_bytes()
    assert b"Says that the VM is ready" in content
    state.write_bytes(content.replace(b"Says that the VM is ready", b"Says that the VM is awake"))
    sent = []
    monkeypatch.setattr(handshake, "go", lambda how, go=handshake.go: sent.append(how) or go(how))
    boots(launcher, "not those that were saved")
    assert sent == ["booted"]


@pytest.mark.parametrize("content", [b"", b"no state at all" * 1000, b"QEVM\0\0\0\3" + bytes(100_000)])
def test_what_qemu_cannot_read(launcher: Launcher, content: bytes) -> None:
    (state,) = launcher.store.states()
    launcher.rewrite(state, content)
    boots(launcher, "removed")


def test_a_state_of_another_machine_type(launcher: Launcher) -> None:
    """As after an upgrade of QEMU that its key did not tell: QEMU's stream names the machine at its beginning."""
    (state,) = launcher.store.states()
    content = state.read_bytes()
    position = content.index(b"pc-i440fx-")
    launcher.rewrite(state, content[:position] + b"pc-i440fy-" + content[position + 10 :])
    boots(launcher, "removed")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_state_of_another_user(launcher: Launcher) -> None:
    (state,) = launcher.store.states()
    os.chown(state, 65534, 65534)
    boots(launcher, "not this user's alone")


def test_a_state_taken_on_another_cpu(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm, "host_cpu", lambda: "another")
    with launcher() as appliance:
        assert not appliance.restored
    assert len(launcher.store.states()) == 2
    with launcher() as appliance:
        assert appliance.restored


def test_a_restored_one_that_never_answers(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = dataclasses.replace(acceleration.prove(launcher.image, launcher.settings, ignore), restore_seconds=5)
    monkeypatch.setattr(acceleration, "prove", lambda *_: profile)
    launcher.store.collect(unused=0)
    launcher.save()
    with monkeypatch.context() as deaf:
        deaf.setattr(handshake.Restored, "opened", lambda self, send: None)
        boots(launcher, "not ready after 5 s")
    assert launcher.store.refusals()
    with launcher() as appliance:
        assert not appliance.restored
    assert launcher.store.states() == ()


def test_a_machine_that_qemu_cannot_save(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> str:
        raise Refused("QEMU refused migrate", why="a device cannot be migrated")

    launcher.store.collect(unused=0)
    monkeypatch.setattr(launching, "write_state", refuse)
    with launcher() as appliance:
        assert works(appliance)
    assert [notice for notice in launcher.notices if "a device cannot be migrated" in notice]
    with launcher():
        assert len(launcher.notices) == 1  # not tried again


@contextlib.contextmanager
def small(place: Path, mebibytes: int) -> Iterator[None]:
    place.mkdir(mode=0o700, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=700", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False).returncode:
        pytest.skip("nobody but root mounts a small file system, and not everywhere")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_the_disk_fills_while_a_state_is_saved(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.store.collect(unused=0)
    with small(launcher.store.directory, 8):
        assert not launcher.store.has_room(1)
        monkeypatch.setattr(Store, "has_room", lambda self, wanted: True)
        with launcher() as appliance:
            assert works(appliance)
        assert [notice for notice in launcher.notices if "No space left" in notice]
        assert [path.name for path in launcher.store.directory.iterdir()] == ["lock"]


def test_nothing_is_saved_where_there_is_little_room(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher.store.collect(unused=0)
    monkeypatch.setattr(Store, "has_room", lambda self, wanted: False)
    with launcher() as appliance:
        assert works(appliance)
    assert launcher.store.states() == ()


def test_two_launches_save_the_same_state(launcher: Launcher) -> None:
    launcher.store.collect(unused=0)
    done: list[bool] = []

    def use() -> None:
        with launcher() as appliance:
            done.append(works(appliance))

    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [True, True]
    assert len(launcher.store.states()) == 1
    with launcher() as appliance:
        assert appliance.restored
