"""Nodes and names: what is published is there, complete, or not at all."""

import errno
import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm import qcow2
from sfvm.downloads.fetched import Fetched
from sfvm.errors import RepositoryError, UsageError
from sfvm.repository import Manifest, Repository, StepRecord

TEXT = st.text(max_size=20)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


def test_reading_creates_nothing(repository):
    assert repository.names() == {}
    assert repository.built_keys() == frozenset()
    assert not repository.built("0" * 64)
    assert repository.current("web") is None
    assert repository.last("web") is None
    assert repository.verify() == ()
    assert repository.gc().nodes == ()
    assert not repository.root.exists()


def test_a_published_node_is_there(repository, add):
    key = add(repository, "debian")
    child = add(repository, "web", key, commands=["write -P 2 1M 64k"])
    assert repository.built(key)
    assert repository.built_keys() == {key, child}
    manifest = repository.manifest(child)
    assert (manifest.parent, manifest.parent_name, manifest.depth) == (key, "debian", 1)
    assert manifest.parent_origin == repository.manifest(key).origin
    assert repository.names() == {"debian": key, "web": child}
    assert repository.last("web")["key"] == child
    assert repository.overlay(key).stat().st_mode & 0o777 == 0o444
    assert qcow2.header(repository.overlay(child)).backing == f"{key}.qcow2"
    assert repository.verify() == ()


def test_the_repository_can_be_moved(repository, add, tmp_path, same):
    key = add(repository, "debian")
    child = add(repository, "web", key, commands=["write -P 2 1M 64k"])
    qcow2.convert(repository.overlay(child), tmp_path / "before.qcow2")
    repository.root.rename(tmp_path / "elsewhere")
    moved = Repository(tmp_path / "elsewhere")
    assert moved.verify() == ()
    assert same(moved.overlay(child), tmp_path / "before.qcow2")


def test_an_overlay_of_another_size_is_not_built(repository, add):
    key = add(repository, "debian")
    os.truncate(repository.overlay(key), 1000)
    assert not repository.built(key)


def test_a_truncated_manifest_is_not_built(repository, add):
    key = add(repository, "debian")
    path = repository.nodes / f"{key}.json"
    path.write_bytes(path.read_bytes()[:100])
    assert not repository.built(key)
    with pytest.raises(RepositoryError, match="damaged"):
        repository.manifest(key)


def test_publishing_again_changes_nothing(repository, add):
    key = add(repository, "debian")
    before = repository.manifest(key)
    add(repository, "debian", commands=["write -P 9 0 1M"])
    assert repository.manifest(key) == before
    assert repository.verify() == ()


def test_what_does_not_fit_is_not_published(repository, add):
    from dataclasses import replace

    key = add(repository, "debian")
    with pytest.raises(RepositoryError, match="does not fit"):
        add(repository, "web", key, change=lambda manifest: replace(manifest, size=manifest.size + 1))
    with pytest.raises(RepositoryError, match="other bytes of its parent"):
        add(repository, "web", key, change=lambda manifest: replace(manifest, parent_origin="0" * 64))
    assert repository.built_keys() == {key}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_nothing_half_written(repository, add, monkeypatch, number):
    parent = add(repository, "debian")
    real = os.fsync

    def full(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().parent == repository.root / "tmp":
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RepositoryError, match=r"full|quota|error"):
        add(repository, "web", parent)
    with pytest.raises(RepositoryError, match="cannot be written"):
        repository.point("other", parent)
    monkeypatch.undo()
    assert repository.built_keys() == {parent}
    assert list((repository.root / "tmp").iterdir()) == []
    assert repository.names() == {"debian": parent}
    assert [problem for problem in repository.verify() if problem.serious] == []


def test_room_is_asked_for(repository):
    repository.require_space(1, "a test")
    with pytest.raises(RepositoryError, match=r"(?s)not enough room for a test.*gc"):
        repository.require_space(1 << 60, "a test")


def test_a_newer_format_is_refused(repository, add):
    add(repository, "debian")
    (repository.root / "format").write_text("2\n")
    with pytest.raises(RepositoryError, match=r"(?s)format '2'.*knows format 1"):
        Repository(repository.root)


@pytest.mark.parametrize("name", ["thesis", "work", ".git"])
def test_a_directory_that_holds_something_else_is_no_repository(tmp_path, name):
    root = tmp_path / "vm"
    (root / "work" / "thesis").mkdir(parents=True)
    path = root / name
    if name == "work":
        (root / "work" / "thesis").rmdir()
        path.rmdir()
    path.write_text("years of work")
    before = sorted(root.rglob("*"))
    repository = Repository(root)
    for change in (repository.make, repository.gc, lambda: repository.point("web", "a" * 64)):
        with pytest.raises(RepositoryError, match="is no repository") as error:
            change()
        assert error.value.hint == "name another directory with --repository"
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("there", [[], ["lost+found"], ["layers", "nodes"], ["lock/leases", "tmp", "downloads/url"]])
def test_a_repository_whose_making_was_interrupted_is_made(tmp_path, there):
    root = tmp_path / "repository"
    root.mkdir()
    for name in there:
        (root / name).mkdir(parents=True)
    Repository(root).make()
    assert (root / "format").read_text() == "1\n"


# Names


def test_names_keep_their_history(repository, add):
    first = add(repository, "web")
    second = add(repository, "web", key="a" * 64)
    repository.point("web", second)  # again: no second line
    assert [key for _, key in repository.history("web")] == [first, second]
    assert repository.current("web") == second


def test_a_torn_name_keeps_what_is_whole(repository, add):
    key = add(repository, "web")
    with (repository.root / "names" / "web").open("a") as file:
        file.write('{"time": 1.0, "ke')
    assert repository.current("web") == key


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../../etc", ".hidden", "a b", "ü", "a\n", "a" * 201])
def test_names_that_are_none(repository, name):
    with pytest.raises(RepositoryError):
        repository.point(name, "0" * 64)
    with pytest.raises(UsageError):
        repository.remove(name)
    assert repository.current(name) is None


@pytest.mark.parametrize("name", ["libstdc++", "0", "a" * 200])
def test_names_that_specs_may_have(repository, add, name):
    key = add(repository, name)
    assert repository.names() == {name: key}
    assert repository.manifest(key).name == name


def test_resolve(repository, add):
    key = add(repository, "debian", key="abcdef" + "0" * 58)
    other = add(repository, "web", key="abcdef" + "1" * 58)
    assert repository.resolve("debian") == key
    assert repository.resolve(other) == other
    assert repository.resolve("abcdef1") == other
    with pytest.raises(UsageError, match="2 keys"):
        repository.resolve("abcdef")
    with pytest.raises(UsageError, match="did you mean 'debian'"):
        repository.resolve("debain")
    with pytest.raises(UsageError):
        repository.resolve("abcd")


def test_remove_drops_only_the_name(repository, add):
    key = add(repository, "debian")
    repository.remove("debian")
    assert repository.names() == {}
    assert repository.built(key)
    with pytest.raises(UsageError, match="no name"):
        repository.remove("debian")


# Depth


def test_a_deep_node_is_backed_by_a_flattened_twin(repository, add, same):
    keys = [add(repository, "n0")]
    for depth in range(1, 12):
        command = f"write -P {depth} {depth * 64}k 64k"
        keys.append(add(repository, f"n{depth}", keys[-1], commands=[command], threshold=4))
    assert max(len(repository.files(key)) for key in keys) <= 4
    twin = repository.flatten(keys[5])
    assert qcow2.header(twin).backing is None
    assert same(twin, repository.overlay(keys[5]))
    assert repository.verify() == ()
    assert repository.gc().nodes == ()
    assert repository.verify() == ()  # the twins in use are still there


# Downloads


def test_downloads_are_kept_by_content(repository, tmp_path):
    import hashlib

    source = tmp_path / "file"
    source.write_bytes(b"content")
    sha256 = hashlib.sha256(b"content").hexdigest()
    assert repository.store_download(source, sha256).read_bytes() == b"content"
    assert repository.download(sha256).exists()
    with pytest.raises(RepositoryError, match="not what was expected"):
        repository.store_download(source, "0" * 64)
    assert list((repository.root / "tmp").iterdir()) == []


# Manifests


@given(
    manifest=st.builds(
        Manifest,
        key=HEX,
        name=st.from_regex(r"[a-z0-9][a-z0-9._+-]{0,20}", fullmatch=True),
        parent=st.none(),
        parent_name=st.none(),
        inputs=st.dictionaries(TEXT, st.integers() | TEXT | st.none()),
        spec=TEXT,
        steps=st.lists(st.builds(StepRecord, TEXT, HEX, st.floats(0, 1e6))).map(tuple),
        digest=HEX,
        size=st.integers(0, 1 << 50),
        disk=st.integers(0, 1 << 50),
        filesystem=TEXT,
        facts=st.dictionaries(TEXT, TEXT),
        packages=st.lists(st.tuples(TEXT, TEXT, TEXT)).map(tuple),
        created=st.floats(0, 1e10),
        seconds=st.floats(0, 1e6),
        provenance=st.dictionaries(TEXT, TEXT),
        depth=st.just(0),
        origin=HEX,
        parent_origin=st.none(),
        fetched=st.lists(
            st.builds(Fetched, TEXT, HEX | st.just(""), st.integers(0, 1 << 50), st.floats(0, 1e6), st.booleans())
        ).map(tuple),
    ),
    cut=st.integers(1, 40),
)
def test_manifests_survive_json_and_truncated_ones_do_not(manifest, cut):
    content = manifest.dump()
    assert Manifest.parse(content) == manifest
    with pytest.raises(ValueError):
        Manifest.parse(content[: -1 - cut])


def test_a_manifest_of_before_there_were_downloads(repository, add):
    value = json.loads((repository.nodes / f"{add(repository, 'web')}.json").read_bytes())
    del value["fetched"]
    assert Manifest.from_json(value).fetched == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"key": "../../etc/passwd"}, "'key' is no SHA-256"),
        ({"name": "../x"}, "no name"),
        ({"size": "1"}, "wrong type"),
        ({"size": -1}, "negative"),
        ({"depth": 3}, "do not fit"),
        ({"steps": [1]}, "malformed"),
        ({"packages": [["a"]]}, "malformed"),
        *(({name: value}, "a time") for name in ("created", "seconds") for value in (1e300, float("nan"), -1.0)),
        *(({"steps": [{"title": "a", "key": "b", "seconds": s}]}, "malformed") for s in (float("inf"), 10**400, -1)),
        ({"facts": {"distribution": 5}}, "a fact"),
        ({"inputs": None}, "wrong type"),
        ({"fetched": {}}, "wrong type"),
        ({"fetched": [1]}, "malformed download"),
        ({"fetched": [{"url": "u", "sha256": "../x", "size": 1, "seconds": 1, "cached": 0}]}, "malformed download"),
        ({"fetched": [{"url": "u", "sha256": "", "size": -1, "seconds": 1, "cached": 0}]}, "malformed download"),
    ],
)
def test_malformed_manifests(repository, add, change, message):
    good = json.loads((repository.nodes / f"{add(repository, 'web')}.json").read_bytes())
    with pytest.raises(ValueError, match=message):
        Manifest.from_json(good | change)


@pytest.mark.parametrize(
    "change", [{"packages": [["\ud800", "1", ""]]}, {"created": float("nan")}, {"seconds": float("inf")}]
)
def test_manifests_that_could_not_be_told(repository, add, change):
    good = json.loads((repository.nodes / f"{add(repository, 'web')}.json").read_bytes())
    with pytest.raises(ValueError, match=r"."):
        Manifest.parse(json.dumps(good | change).encode())


# Speed


def test_a_thousand_nodes_are_asked_for_in_one_pass(repository, add):
    """No timing: the listing of built keys must not open a single manifest."""
    key = add(repository, "n")
    content = (repository.nodes / f"{key}.json").read_bytes()
    for number in range(1000):
        other = f"{number:064x}"
        (repository.nodes / f"{other}.json").write_bytes(content)
        (repository.layers / f"{other}.qcow2").write_bytes(b"")
        (repository.nodes / f"{other}.json").chmod(0)
    assert len(repository.built_keys()) == 1001
    begun = time.monotonic()
    assert sum(repository.built(f"{number:064x}") for number in range(1000)) == 0
    print(f"1000 built(): {time.monotonic() - begun:.3f} s")
