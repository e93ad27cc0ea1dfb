"""Refreshes on purpose, and downloads that locks keep."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from sfvm.downloads.store import MAX_AGE, Store
from sfvm.errors import RepositoryError
from sfvm.repository import stamps
from sfvm.repository.kept import Kept
from sfvm.repository.stamps import Stamps
from tests.guests.project import eventually


def test_a_stamp_counts_until_it_is_undone(repository):
    found = Stamps(repository.root)
    assert found.all() == {}
    found.set("web", None)
    repository.make()
    first = stamps.now()
    second = eventually(lambda: (now := stamps.now()) != first and now)
    found.set("web", first)
    found.set("web", second)
    Stamps(repository.root, "proposed").set("web", first)
    assert Stamps(repository.root).all() == {"web": second}
    found.set("web", None)
    assert found.all() == {}
    assert Stamps(repository.root, "proposed").all() == {"web": first}


@pytest.mark.parametrize("content", [b"", b"<x>", b"\xff" * 9, b"1" * 50])
def test_a_damaged_stamp_is_no_missing_one(repository, content):
    repository.make()
    Stamps(repository.root).set("web", stamps.now())
    (repository.root / "refreshed" / "web").write_bytes(content)
    with pytest.raises(RepositoryError, match="is damaged"):
        Stamps(repository.root).all()


@pytest.mark.parametrize("name", ["../x", "", "a/b"])
def test_only_names_have_stamps(repository, name):
    repository.make()
    with pytest.raises(RepositoryError, match="cannot be a node's name"):
        Stamps(repository.root).set(name, stamps.now())
    assert not (repository.root.parent / "x").exists()


def test_gc_keeps_what_locks_name_until_their_name_is_forgotten(repository, add, tmp_path):
    add(repository, "web")
    store = Store(repository.downloads)
    contents = {}
    for name in ("kept", "before", "other"):
        with store.draft() as draft:
            draft.write(name.encode())
            contents[name] = store.content(draft.keep())
    old = time.time() - MAX_AGE - 60
    for path in contents.values():
        os.utime(path, (old, old))
    Kept(repository.root).set("web", tmp_path / "a.lock.xml", ["f" * 64, hashlib.sha256(b"kept").hexdigest()])
    Kept(repository.root).set("web", tmp_path / "b.lock.xml", [hashlib.sha256(b"before").hexdigest()])
    repository.gc()
    assert contents["kept"].exists() and contents["before"].exists() and not contents["other"].exists()
    for name in ("kept", "before"):
        os.utime(contents[name], (old, old))
    repository.remove("web")
    assert Kept(repository.root).all() == frozenset()
    repository.gc()
    assert not contents["kept"].exists() and not contents["before"].exists()


def test_a_lock_file_that_is_written_again_keeps_what_it_names_now(repository, tmp_path, monkeypatch):
    repository.make()
    kept = Kept(repository.root)
    monkeypatch.chdir(tmp_path)
    kept.set("web", tmp_path / "a.lock.xml", ["1" * 64])
    kept.set("web", tmp_path / "b.lock.xml", ["2" * 64])
    kept.set("web", Path("a.lock.xml"), ["3" * 64])
    assert kept.all() == {"2" * 64, "3" * 64}


def test_what_was_kept_in_one_file_for_each_name(repository, tmp_path):
    """As repositories of before have it: it counts until the next lock of that name."""
    repository.make()
    kept = Kept(repository.root)
    kept.directory.mkdir()
    for name in ("web", "db"):
        (kept.directory / name).write_text("1" * 64 + "\n")
    assert kept.all() == {"1" * 64}
    kept.set("web", tmp_path / "a.lock.xml", ["2" * 64])
    assert kept.all() == {"1" * 64, "2" * 64}
    kept.drop("db")
    assert kept.all() == {"2" * 64}
