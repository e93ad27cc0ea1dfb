"""The files of the download cache: what is found again, and what is not trusted."""

import os
import time
from pathlib import Path

import pytest

from sfvm.downloads.store import MAX_AGE, Entry, Store
from sfvm.repository import Repository

URL = "http://mirror.invalid/pool/a.deb?token=very-secret"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mirror")


def keep(store: Store, content: bytes, url: str = URL) -> Entry:
    with store.draft() as draft:
        assert draft is not None
        draft.write(content)
        entry = Entry(draft.keep(), len(content), "yesterday", '"tag"', "text/plain")
    store.remember(url, entry)
    return entry


def read(store: Store, url: str = URL) -> bytes | None:
    with store.open(url) as found:
        return None if found is None else found[1].read()


def test_what_a_url_had(store: Store) -> None:
    assert read(store) is None
    entry = keep(store, b"content")
    with store.open(URL) as found:
        assert found is not None
        assert found[0] == entry
        assert found[1].read() == b"content"
    assert read(store, f"{URL}&more") is None
    keep(store, b"another")
    assert read(store) == b"another"


@pytest.mark.parametrize("damage", [b"", b"conten", b"CONTENT", b"content and more"])
def test_a_damaged_content_is_not_used(store: Store, damage: bytes) -> None:
    store.content(keep(store, b"content").sha256).write_bytes(damage)
    assert read(store) is None
    keep(store, b"content")
    assert read(store) == b"content"


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1, 2]", b'{"sha256": 1}', b"\xff"])
def test_a_damaged_record_is_not_used(store: Store, damage: bytes) -> None:
    keep(store, b"content")
    (record,) = store.urls.iterdir()
    record.write_bytes(damage)
    assert read(store) is None


def test_a_record_names_a_content_and_nothing_else(store: Store) -> None:
    (store.contents.parent / "outside").parent.mkdir(parents=True)
    (store.contents.parent / "outside").write_bytes(b"secret")
    store.remember(URL, Entry("../outside", 6, "", "", ""))
    assert read(store) is None
    assert (store.contents.parent / "outside").exists()


def test_no_secret_of_a_url_is_on_the_disk(store: Store) -> None:
    keep(store, b"content")
    for path in store.contents.parent.rglob("*"):
        assert "secret" not in path.name
        assert path.is_dir() or b"secret" not in path.read_bytes()


def test_a_draft_that_is_not_kept_leaves_nothing(store: Store) -> None:
    with store.draft() as draft:
        assert draft is not None
        draft.write(b"half")
    assert list(store.contents.iterdir()) == []


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with Store(tmp_path / "file").draft() as draft:
        assert draft is None


def test_gc_removes_what_nobody_has_used(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    repository.make()
    store = Store(repository.downloads)
    for name in ("old", "used"):
        keep(store, name.encode(), name)
    long_ago = time.time() - MAX_AGE - 60
    for path in repository.downloads.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    assert read(store, "used") == b"used"
    assert repository.gc(dry_run=True).files == 2
    assert read(store, "used") == b"used"
    assert repository.gc().files == 2
    assert read(store, "used") == b"used"
    assert read(store, "old") is None


def test_gc_keeps_what_nodes_were_made_of(tmp_path: Path) -> None:
    store = Store(tmp_path / "downloads")
    entry = keep(store, b"package")
    long_ago = time.time() - MAX_AGE - 60
    os.utime(store.content(entry.sha256), (long_ago, long_ago))
    assert store.outdated() == [store.content(entry.sha256)]
    assert store.outdated({entry.sha256}) == []


def test_a_draft_on_a_full_disk(store: Store) -> None:
    with store.draft() as draft, Path("/dev/full").open("wb", buffering=0) as full:
        assert draft is not None
        assert draft.write(b"fits")
        draft.file = full
        assert not draft.write(b"does not")
        assert draft.size == 4
        draft.give_up()
        assert list(store.contents.iterdir()) == []
