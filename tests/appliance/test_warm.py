"""The store of saved appliances: what it keeps, what it refuses, and that it is private. No VM."""

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sfvm.appliance import launch as launching
from sfvm.appliance import migration, warm
from sfvm.appliance.machine import Shape
from sfvm.appliance.profile import KVM, TCG
from sfvm.appliance.qmp import Refused
from sfvm.appliance.warm import Doubt, Store
from sfvm.errors import ApplianceError

KEY = "0" * 32


def writer(content: bytes) -> Callable[..., str]:
    def write(file) -> str:
        file.write(content)
        return hashlib.sha256(content).hexdigest()

    return write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "warm")


def saved(store: Store, key: str = KEY, content: bytes = b"state") -> None:
    assert store.save(key, writer(content))


def test_what_was_saved_is_found(store: Store) -> None:
    assert store.find(KEY) is None
    saved(store)
    state = store.find(KEY)
    assert state is not None
    assert (state.path.read_bytes(), state.size, state.proved) == (b"state", 5, False)
    assert state.intact()
    store.proved(KEY, state)
    again = store.find(KEY)
    assert again is not None and again.proved


def test_one_that_goes_just_as_it_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes room, or runs gc."""
    saved(store)
    utime = os.utime

    def late(path: Path) -> None:
        Store(store.directory).discard(KEY, None, "")
        utime(path)

    monkeypatch.setattr(os, "utime", late)
    assert store.find(KEY) is None


def test_nobody_else_may_read_it(store: Store) -> None:
    before = os.umask(0)
    try:
        saved(store)
    finally:
        os.umask(before)
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o077 for path in store.directory.iterdir()} == {0}


@pytest.mark.parametrize("name", [".", f"{KEY}.state", f"{KEY}.json"])
def test_one_that_others_may_read_is_not_used(store: Store, name: str) -> None:
    saved(store)
    (store.directory / name).chmod(0o755)
    with pytest.raises(Doubt, match="not this user's alone"):
        store.find(KEY)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_one_of_another_user_is_not_used(store: Store) -> None:
    saved(store)
    os.chown(store.directory / f"{KEY}.state", 65534, 65534)
    with pytest.raises(Doubt, match="not this user's alone"):
        store.find(KEY)


def test_a_symlink_is_not_used(store: Store, tmp_path: Path) -> None:
    saved(store)
    state = store.directory / f"{KEY}.state"
    state.rename(tmp_path / "elsewhere")
    state.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Doubt, match="not this user's alone"):
        store.find(KEY)


def test_a_truncated_one_is_not_used(store: Store) -> None:
    saved(store)
    os.truncate(store.directory / f"{KEY}.state", 3)
    with pytest.raises(Doubt, match="has 3 bytes, not 5"):
        store.find(KEY)


def test_changed_bytes_are_noticed(store: Store) -> None:
    saved(store)
    (store.directory / f"{KEY}.state").write_bytes(b"stale")
    state = store.find(KEY)
    assert state is not None and not state.intact()


@pytest.mark.parametrize("record", [b"", b"[]", b'{"size": "many"}', b'{"size": 5}'])
def test_a_record_that_says_nothing_is_doubted(store: Store, record: bytes) -> None:
    saved(store)
    (store.directory / f"{KEY}.json").write_bytes(record)
    with pytest.raises(Doubt, match="cannot be read"):
        store.find(KEY)


def test_a_full_disk_keeps_nothing(store: Store) -> None:
    def write(file) -> str:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError):
        store.save(KEY, write)
    assert store.find(KEY) is None
    assert [path.name for path in store.directory.iterdir()] == ["lock"]


def test_of_two_that_save_one_does_it(store: Store) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(file) -> str:
        begun.set()
        assert go_on.wait(60)
        return writer(b"slow")(file)

    first = threading.Thread(target=store.save, args=(KEY, slow))
    first.start()
    assert begun.wait(60)
    assert store.save(KEY, writer(b"quick")) is False
    assert store.collect(unused=0) == 0  # the draft is in use
    go_on.set()
    first.join()
    state = store.find(KEY)
    assert state is not None and state.path.read_bytes() == b"slow"


def test_one_that_never_worked_is_not_made_again(store: Store) -> None:
    saved(store)
    store.discard(KEY, store.find(KEY), "it did not answer")
    assert store.find(KEY) is None
    assert store.save(KEY, writer(b"again")) is False
    assert store.refusals() == ("it did not answer",)
    store.collect(unused=0)
    saved(store)


def test_one_that_worked_before_is_made_again(store: Store) -> None:
    saved(store)
    state = store.find(KEY)
    assert state is not None
    store.proved(KEY, state)
    store.discard(KEY, store.find(KEY), "damaged")
    assert store.refusals() == ()
    saved(store)
    state = store.find(KEY)
    assert state is not None and not state.proved


def test_number_and_size_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(warm.KEPT + 2):
        saved(store, f"{number:032x}")
        os.utime(store.directory / f"{number:032x}.state", (number, number))
    store.collect()
    kept = [path.stem for path in store.states()]
    assert kept == [f"{number:032x}" for number in range(2, warm.KEPT + 2)]
    monkeypatch.setattr(warm, "MAX_BYTES", 12)
    store.collect()
    assert [path.stem for path in store.states()] == kept[-2:]
    assert {path.suffix for path in store.directory.iterdir()} == {".state", ".json", ""}


def test_what_a_killed_process_left_goes(store: Store) -> None:
    saved(store)
    (store.directory / f"{warm.DRAFT}{KEY}").write_bytes(b"half")
    assert store.collect(dry_run=True) > 0
    assert store.collect() > 0
    assert sorted(path.suffix for path in store.directory.iterdir()) == ["", ".json", ".state"]


def test_the_key_covers_all_that_a_state_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = tmp_path / "qemu"
    emulator.write_text("7.2")
    same = {
        "emulator": emulator, "appliance": "a", "machine": {"memory": 1024}, "connection": "direct",
        "versions": ["1.48.6"], "profile": TCG,
    }  # fmt: skip
    keys = {warm.key(**same)}
    assert keys == {warm.key(**same)}
    other = tmp_path / "other"
    other.write_text("7.2")
    for name, value in (
        ("emulator", other),
        ("appliance", "b"),
        ("machine", {"memory": 768}),
        ("connection", "qemu:///session"),
        ("versions", ["1.50.0"]),
        ("profile", KVM),
    ):
        keys.add(warm.key(**{**same, name: value}))
    os.utime(emulator, (1, 1))  # QEMU was upgraded
    keys.add(warm.key(**same))
    monkeypatch.setattr(warm, "host_cpu", lambda: "another CPU")
    keys.add(warm.key(**same))
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    keys.add(warm.key(**same))
    assert len(keys) == 10


def test_one_that_cannot_be_removed_fails_no_launch(store: Store) -> None:
    saved(store)
    found = store.find(KEY)
    state = store.directory / f"{KEY}.state"
    state.unlink()
    state.mkdir()  # nor can files of another user
    store.discard(KEY, found, "damaged")
    assert state.exists()


def test_a_directory_that_others_may_read_is_closed(store: Store) -> None:
    store.directory.mkdir(mode=0o755)
    saved(store)
    assert store.find(KEY) is not None


class Dying:
    """A monitor of a QEMU that does what is asked of it, but for migrating."""

    def __init__(self, error: ApplianceError | None) -> None:
        self.error = error

    def close(self) -> None:
        pass

    def execute(self, command: str, _: object) -> None:
        if command == "migrate" and self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("error", "refusals"),
    [(Refused("QEMU refused migrate", why="a device"), ("a device",)), (ApplianceError("the appliance died"), ())],
)
def test_only_a_qemu_that_refuses_is_not_asked_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: ApplianceError, refusals: tuple[str, ...]
) -> None:
    """One that was killed (by Ctrl-C during the first launch) says nothing of the next."""
    monkeypatch.setattr(launching, "Monitor", lambda path: Dying(error))
    save = launching._States(store, KEY, lambda event: None).saver(Shape())
    assert save is not None
    save(tmp_path / "qmp", tmp_path)
    assert store.refusals() == refusals
    assert store.states() == ()


def test_a_qemu_that_never_sends_its_state_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "PATIENCE", 0.1)
    with (tmp_path / "state").open("wb") as file, pytest.raises(OSError):
        migration.write_state(Dying(None), tmp_path, file)
    assert not (tmp_path / "outgoing").exists()
