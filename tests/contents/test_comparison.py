"""Comparing is arithmetic of values."""

import itertools
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm.contents import comparison, nodes
from sfvm.contents.comparison import Artifact, Blob, Changed, Comparison, Files, Upgrade
from sfvm.contents.entry import Entry, shown
from sfvm.contents.nodes import merged, suspects
from sfvm.events import ignore
from sfvm.guest import Package

FILE = Entry("file", 0o644, size=3, digest="a")


def test_packages_are_added_removed_and_changed():
    before = [
        Package("a", "1", "amd64"),
        Package("b", "1", "amd64"),
        Package("k", "5", "amd64"),
        Package("l", "1", "i386"),
    ]
    after = [Package("b", "2", "amd64"), Package("c", "1", "all"), *(Package("k", v, "amd64") for v in ("6", "5"))]
    found = comparison.packages(before, [*after, Package("l", "1", "amd64")])
    assert found.added == (Package("c", "1", "all"), Package("l", "1", "amd64"))
    assert found.removed == (Package("a", "1", "amd64"), Package("l", "1", "i386"))
    assert found.changed == (Upgrade("b", "amd64", ("1",), ("2",)), Upgrade("k", "amd64", ("5",), ("5", "6")))
    assert not comparison.packages(before, reversed([*before, *before]))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (Entry("file", 0o755, size=3, digest="a"), ("mode",)),
        (Entry("file", 0o644, 1, 2, size=3, digest="a"), ("owner", "group")),
        (Entry("file", 0o644, size=4), ("size", "content")),
        (Entry("file", 0o644, size=3, digest="b"), ("content",)),
        (Entry("file", 0o644, size=3, digest="a", links=2), ("links",)),
        (Entry("file", 0o644, size=3, digest="a", xattrs={"user.a": "00"}), ("xattrs",)),
        (Entry("directory", 0o755, 1), ("type",)),
        (Entry("file", 0o644, size=3, digest="a", inode=5, disk=4096), ()),
    ],
)
def test_in_what_files_differ(after, words):
    assert comparison.differs(FILE, after) == words
    expected = (Changed(b"x", FILE, after, words),) if words else ()
    assert comparison.files({b"x": FILE}, {b"x": after}) == Files(changed=expected)


def test_links_and_devices_differ_in_what_they_name():
    assert comparison.differs(Entry("symlink", target=b"a"), Entry("symlink", target=b"b")) == ("target",)
    assert comparison.differs(Entry("fifo"), Entry("fifo")) == ()
    null, zero = (Entry("character device", device=f"1:{minor}") for minor in (3, 5))
    assert comparison.differs(null, zero) == ("device",)


entries = st.dictionaries(
    st.binary(min_size=1, max_size=3), st.builds(Entry, st.sampled_from(("file", "directory")), st.integers(0, 3))
)


@given(entries, entries)
def test_there_and_back(before, after):
    there, back = comparison.files(before, after), comparison.files(after, before)
    assert (there.added, there.removed) == (back.removed, back.added)
    assert [(c.path, c.before, c.after) for c in there.changed] == [(c.path, c.after, c.before) for c in back.changed]
    patched = {**before, **dict(there.added), **{change.path: change.after for change in there.changed}}
    assert {path: patched[path] for path in patched.keys() - dict(there.removed).keys()} == after
    assert not comparison.files(before, before)


def test_digests_are_wanted_only_where_nothing_else_tells():
    before = {b"same": FILE, b"grown": FILE, b"empty": Entry("file"), b"gone": FILE, b"kind": FILE}
    after = {b"same": FILE, b"grown": Entry("file", size=4), b"empty": Entry("file"), b"kind": Entry("fifo")}
    assert comparison.undecided(before, after) == (b"same",)


def test_texts_are_small_and_for_everybody():
    def changed(path, before, after):
        return Changed(path, before, after, comparison.differs(before, after))

    small, large, huge = (Entry("file", 0o644, size=s, digest="b") for s in (4, comparison.SMALL + 1, 1 << 20))
    secret = Entry("file", 0o640, size=4)
    found = [
        changed(b"srv/small", FILE, small),
        changed(b"srv/large", FILE, large),
        changed(b"etc/large", FILE, large),
        changed(b"etc/huge", huge, FILE),
        changed(b"etc/shadow", FILE, secret),
        changed(b"etc/gshadow", secret, FILE),
        changed(b"srv/mode", FILE, Entry("file", 0o755, size=3, digest="a")),
    ]
    assert comparison.texts(found) == (b"srv/small", b"etc/large")


def test_what_lies_in_a_directory_that_not_everybody_may_enter_is_not_shown():
    directory, private = Entry("directory", 0o755), Entry("directory", 0o744)
    before = {b".": directory, b"root": private, b"srv": directory, b"srv/a": directory, b"l": Entry("symlink", 0o777)}
    after = {**before, b"root": directory, b"srv/a": private}
    paths = (b"top", b"root/token", b"root/.ssh/config", b"srv/a/b/c", b"srv/b", b"untold/x", b"l/x")
    assert comparison.above(paths) == {b".", b"root", b"root/.ssh", b"srv", b"srv/a", b"srv/a/b", b"untold", b"l"}
    assert comparison.in_the_open(paths, before, after) == (b"top", b"srv/b", b"untold/x")
    assert comparison.in_the_open(paths, {b".": private}) == ()


def test_the_directories_of_nodes_are_asked_for(monkeypatch):
    """Of nodes only what differs is read, and /root is the same on both sides."""
    everything = {b".": Entry("directory", 0o755), b"root": Entry("directory", 0o700)}
    contents = []

    class Trees:
        nodes = (SimpleNamespace(filesystem="ext4"),) * 2

        def entries(self, wanted=None):
            changed = {path: Entry("file", 0o644, size=9) for path in (b"motd", b"root/token")}
            if wanted is None:
                return [{path: replace(e, digest=side) for path, e in changed.items()} for side in "ab"]
            return [{path: everything[path] for path in wanted}] * 2

        def digests(self, wanted):
            return [{}, {}]

        def contents(self, wanted, entries):
            contents.append(wanted)
            return [dict.fromkeys(wanted, side) for side in (b"1\n", b"2\n")]

    monkeypatch.setattr(nodes, "reading", lambda *_: nullcontext(Trees()))
    monkeypatch.setattr(nodes.Kin, "of", lambda *_: None)
    one, other = (SimpleNamespace(key=name, name=name) for name in ("one", "other"))
    found, texts = nodes.compare(one, other, None, None, ignore)
    assert [change.path for change in found.changed] == [b"motd", b"root/token"]
    assert (contents, list(texts)) == ([(b"motd",)], [b"motd"])


def patched(text, diff, directory):
    """What patch(1) makes of *text*."""
    file = directory / "file"
    file.write_bytes(text)
    subprocess.run(["patch", "-s", str(file)], input=diff.encode() + b"\n", check=True, capture_output=True)
    return file.read_bytes()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"a\nb\nc\n", b"a\nx\nc\n"),
        (b"a\nb", b"a\nb\n"),
        (b"", b"first\n"),
        (b"a\n", b"a\n\xc3\xa9\x0c\x0b no line's end\n"),
        (b"a\r\nb\r\n", b"a\nb"),
    ],
)
def test_a_unified_diff_is_what_patch_wants(before, after, tmp_path):
    diff = comparison.unified(b"etc/x", before, after)
    assert diff.startswith("--- a/etc/x\n+++ b/etc/x\n@@ ")
    assert patched(before, diff, tmp_path) == after


def test_what_is_no_text_has_no_diff():
    long = b"\n" * comparison.LINES
    assert comparison.unified(b"x", b"a", b"\xff") is None
    assert comparison.unified(b"x", b"a\0", b"b") is None
    assert comparison.unified(b"x", b"a", long) is None
    assert comparison.diffs({b"x": b"a", b"y": b"a\n"}, {b"x": b"\xff", b"y": b"b\n"}).keys() == {b"y"}


def test_artifacts_differ_in_bytes():
    one, other = Blob(1, "a"), Blob(1, "b")
    found = comparison.artifacts({"a": one, "b": one, "c": one}, {"a": one, "b": other, "d": one})
    assert found == (Artifact("b", one, other), Artifact("c", one, None), Artifact("d", None, one))


def test_suspects_are_what_stamps_and_inodes_tell():
    before = {b"same": b"1", b"written": b"2", b"gone": b"3", b"replaced": b"4", b"alias": b"2"}
    after = {b"same": b"1", b"written": b"2", b"new": b"5", b"replaced": b"6", b"alias": b"2"}
    assert suspects(before, after, frozenset([b"2", b"9"])) == [b"alias", b"gone", b"new", b"replaced", b"written"]
    assert suspects(before, before, frozenset()) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10))))
def test_merged_spans_cover_the_same_and_are_apart(pieces):
    spans = [(start, start + length) for start, length in pieces]
    found = merged(spans)
    assert {n for span in found for n in range(*span)} == {n for span in spans for n in range(*span)}
    assert all(one[1] < other[0] for one, other in itertools.pairwise(found))


def test_json_has_every_part_and_every_name():
    odd = b"a\nb\xff"
    files = comparison.files({odd: FILE}, {b".": Entry("directory", 0o755), odd: Entry("symlink", target=b"\xfe")})
    told = Comparison(comparison.packages([], [Package("a", "1", "all")]), (), files).to_json()
    assert told["differ"] is True
    assert told["packages"]["added"] == [{"name": "a", "version": "1", "architecture": "all"}]
    assert told["files"]["added"] == [{"path": "/", "type": "directory", "mode": "0755", "owner": 0, "group": 0}]
    (change,) = told["files"]["changed"]
    assert (change["path"], change["differs"]) == ("/a\nb\udcff", ["type"])
    assert change["before"]["size"] == 3
    assert change["after"]["target"] == "\udcfe"
    assert (told["artifacts"], told["texts"], told["sizes"], told["notes"]) == ([], {}, {}, [])
    assert Comparison(comparison.packages([], [])).to_json()["files"] is None
    assert not Comparison(comparison.packages([], []), (), Files())
    assert shown(b".") == "/"
