"""Refreshes on purpose, and downloads that locks keep."""

import hashlib
import os
import time

import pytest

from sfvm.downloads.store import MAX_AGE, Store
from sfvm.errors import RepositoryError
from sfvm.repository import stamps
from sfvm.repository.kept import Kept
from sfvm.repository.stamps import Stamps


def test_a_stamp_counts_until_it_is_undone(repository):
    found = Stamps(repository.root)
    assert found.all() == {}
    found.set("web", None)
    repository.make()
    first, second = stamps.now(), stamps.now()
    assert first != second
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


def test_gc_keeps_what_a_lock_names_until_its_name_is_forgotten(repository, add):
    add(repository, "web")
    store = Store(repository.downloads)
    contents = {}
    for name in ("kept", "other"):
        with store.draft() as draft:
            draft.write(name.encode())
            contents[name] = store.content(draft.keep())
    old = time.time() - MAX_AGE - 60
    for path in contents.values():
        os.utime(path, (old, old))
    Kept(repository.root).set("web", ["f" * 64, hashlib.sha256(b"kept").hexdigest()])
    repository.gc()
    assert contents["kept"].exists() and not contents["other"].exists()
    os.utime(contents["kept"], (old, old))
    repository.remove("web")
    assert Kept(repository.root).all() == frozenset()
    repository.gc()
    assert not contents["kept"].exists()
