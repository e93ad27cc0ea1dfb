"""Unfinished work: what was done is found again, moved to whoever can use it, and never mistaken."""

import json
from dataclasses import replace

import pytest

from sfvm import qcow2
from sfvm.downloads.fetched import Fetched
from sfvm.errors import RepositoryError

MIB = 1 << 20
BASE = "b" * 64


def key(digit):
    return digit * 64


def build(repository, write, name, parent, steps, *, backing=None):
    """Do *steps* of a node without sealing it, as in a running appliance over *backing*; return its work."""
    work = repository.work(key(name), name)
    sealed = repository.backing(parent) if parent else None
    work.begin(parent or BASE, sealed, parent, MIB)
    below = backing or sealed
    for number, step in enumerate([*([] if parent else [None]), *steps]):
        overlay = work.next_overlay()
        qcow2.create(overlay, size=None if below else 64 * MIB, backing=below)
        write(overlay, f"write -P {number + 1} {number * 64}k 64k")
        work.record(step, overlay)
        below = overlay
    return work


def test_a_root_is_resumed_after_its_last_step(repository, write):
    build(repository, write, "1", None, ["s1", "s2"])
    work = repository.work(key("1"), "node")
    assert work.done == ("s1", "s2")
    assert [path.name for path in work.checkpoints] == ["0000.qcow2", "0001.qcow2", "0002.qcow2"]
    assert repository.adopt(BASE, ["s1", "s2", "s3"], work) == 2
    assert work.last_good() == work.directory / "0002.qcow2"
    assert work.next_overlay().name == "0003.qcow2"
    assert repository.work(key("1"), "node").next_overlay().name == "0004.qcow2"  # never given out twice


def test_the_base_alone_is_worth_keeping(repository, write):
    build(repository, write, "1", None, [])
    into = repository.work(key("2"), "other")
    assert repository.adopt(BASE, ["t1"], into) == 0
    assert len(into.checkpoints) == 1
    assert into.done == ()


def test_the_longest_common_beginning_is_adopted(repository, write, same):
    source = build(repository, write, "1", None, ["s1", "s2", "s3"])
    qcow2.create(repository.temporary() / "keep.qcow2", backing=source.checkpoints[2])
    qcow2.convert(source.checkpoints[2], repository.temporary() / "expected.qcow2")
    build(repository, write, "2", None, ["s1"])
    build(repository, write, "4", None, ["x1", "s1", "s2"])
    into = build(repository, write, "3", None, [])
    assert repository.adopt(BASE, ["s1", "s2", "t3", "t4"], into) == 2
    assert into.done == ("s1", "s2")
    assert same(into.checkpoints[-1], repository.temporary() / "expected.qcow2")
    for below, above in zip(into.checkpoints, into.checkpoints[1:], strict=False):
        assert qcow2.header(above).backing == below.name
    assert not source.directory.exists()
    assert repository.work(key("3"), "again").done == ("s1", "s2")  # from the journal


def test_what_was_downloaded_goes_with_its_checkpoint(repository, write):
    def fetched(number, *, cached=False):
        return Fetched(f"http://a.invalid/{number}", f"{number}" * 64, number, 0.5, cached)

    work = repository.work(key("1"), "node")
    work.begin(BASE, None, None, MIB)
    below = None
    for number, step in enumerate([None, "s1", "s2", "s3"]):
        overlay = work.next_overlay()
        qcow2.create(overlay, size=None if below else 64 * MIB, backing=below)
        work.record(step, overlay, [fetched(number), fetched(0, cached=True)])
        below = overlay
    assert work.fetched == repository.work(key("1"), "node").fetched == tuple(fetched(number) for number in range(4))
    into = repository.work(key("2"), "other")
    assert repository.adopt(BASE, ["s1", "t2"], into) == 1
    assert into.fetched == repository.work(key("2"), "other").fetched == (fetched(0), fetched(1))
    into.reset()
    assert into.fetched == ()


def test_locked_work_is_not_touched(repository, write):
    source = build(repository, write, "1", None, ["s1"])
    into = repository.work(key("2"), "other")
    with repository.lock(key("1"), lambda holder: None):
        assert repository.adopt(BASE, ["s1", "t2"], into) == 0
    assert source.last_good().exists()
    assert repository.adopt(BASE, ["s1", "t2"], into) == 1


def test_checkpoints_of_another_nodes_work_are_backed_by_the_sealed_parent(repository, add, write, same, tmp_path):
    """In a running appliance a child's first overlay is backed by the parent's unsealed tip."""
    parent = add(repository, "parent", commands=["write -P 9 1M 1M"])
    tip = tmp_path / "tip.qcow2"
    qcow2.convert(repository.overlay(parent), tip)
    work = build(repository, write, "1", parent, ["s1", "s2"], backing=tip)
    qcow2.convert(work.last_good(), tmp_path / "expected.qcow2")
    tip.unlink()
    again = repository.work(key("1"), "node")
    assert repository.adopt(parent, ["s1", "s2", "s3"], again) == 2
    assert (again.directory / qcow2.header(again.checkpoints[0]).backing).samefile(repository.overlay(parent))
    assert same(again.last_good(), tmp_path / "expected.qcow2")


def test_work_on_a_parent_that_was_built_anew_does_not_count(repository, add, write):
    parent = add(repository, "parent")
    build(repository, write, "1", parent, ["s1"])
    repository.remove("parent")
    repository.gc()
    add(repository, "parent", commands=["write -P 5 0 1M"])
    work = repository.work(key("1"), "node")
    assert repository.adopt(parent, ["s1", "s2"], work) == 0
    assert work.checkpoints == ()
    assert work.next_overlay().name != "0000.qcow2"


def test_a_failed_step_is_kept_until_the_next_try(repository, add, write, same, tmp_path):
    parent = add(repository, "parent", commands=["write -P 9 1M 1M"])
    tip = tmp_path / "tip.qcow2"
    qcow2.convert(repository.overlay(parent), tip)
    work = build(repository, write, "1", parent, ["s1"], backing=tip)
    overlay = work.next_overlay()
    qcow2.create(overlay, backing=work.last_good())
    work.fail(overlay, "step 2 failed", {"release": "12"})
    tip.unlink()
    again = repository.work(key("1"), "node")
    assert again.facts == {"release": "12"}
    assert again.failed == overlay
    assert again.message == "step 2 failed"
    assert same(again.failed, again.last_good())  # its whole chain is there
    assert repository.adopt(parent, ["s1", "s2"], again) == 1
    assert again.failed is None
    assert not overlay.exists()


def test_a_torn_journal_line_is_ignored(repository, write):
    work = build(repository, write, "1", None, ["s1"])
    journal = work.directory / "journal"
    whole = journal.read_bytes()
    last = whole.rstrip().rfind(b"\n") + 1
    for cut in range(last + 1, len(whole)):
        journal.write_bytes(whole[:cut])
        found = repository.work(key("1"), "node")
        complete = whole[:cut].rstrip() == whole.rstrip()
        assert found.done == (("s1",) if complete else ())
        assert len(found.checkpoints) == (2 if complete else 1)
    journal.write_bytes(whole[: last + 10])
    again = repository.work(key("1"), "node")
    overlay = again.next_overlay()
    qcow2.create(overlay, backing=again.last_good())
    again.record("s1", overlay)
    assert repository.work(key("1"), "node").done == ("s1",)


def test_a_missing_checkpoint_ends_the_chain(repository, write):
    work = build(repository, write, "1", None, ["s1", "s2", "s3"])
    work.checkpoints[2].unlink()
    assert repository.work(key("1"), "node").done == ("s1",)


def test_a_journal_that_cannot_be_written(repository, write, monkeypatch):
    import os

    work = build(repository, write, "1", None, [])
    overlay = work.next_overlay()
    qcow2.create(overlay, backing=work.last_good())
    before = (work.directory / "journal").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RepositoryError, match="full"):
        work.record("s1", overlay)
    monkeypatch.undo()
    assert (work.directory / "journal").read_bytes() == before
    assert work.done == ()


def test_discard(repository, write):
    work = build(repository, write, "1", None, ["s1"])
    work.discard()
    assert not work.directory.exists()
    assert repository.work(key("1"), "node").checkpoints == ()
    work.discard()  # nothing there is no error


def test_the_journal_is_json_lines(repository, write):
    work = build(repository, write, "1", None, ["s1"])
    lines = [line for line in (work.directory / "journal").read_text().splitlines() if line]
    assert [json.loads(line)["event"] for line in lines] == ["begin", "overlay", "done", "overlay", "done"]


# While a parent is sealed its child's steps have begun


@pytest.fixture
def overlapping(repository, write):
    """A function that does what a running appliance does: the *parent* is finished but not published; its child ``2``
    goes on over the parent's tip with one step done. Returns their work."""

    def begin(origin):
        parent = build(repository, write, "1", None, ["p1"])
        tip = parent.next_overlay()
        qcow2.create(tip, backing=parent.last_good())
        write(tip, "write -P 9 1M 1M")
        child = repository.work(key("2"), "child")
        child.begin(key("1"), repository.overlay(key("1")), key("1"), 64 * MIB, backing_origin=origin)
        overlay = child.next_overlay()
        qcow2.create(overlay, backing=tip)
        write(overlay, "write -P 7 2M 1M")
        child.record("c1", overlay)
        parent.finish("p2", tip, {"origin": origin})
        return parent, child

    return begin


def sealed_as(repository, add, work, origin):
    """Publish the parent from its work, as the next build does."""
    add(repository, "parent", key=key("1"), tip=work.last_good(), change=lambda found: replace(found, origin=origin))


def test_killed_before_the_parent_was_published_nothing_is_lost(repository, add, write, overlapping, same, tmp_path):
    _, child = overlapping("a" * 64)
    qcow2.convert(child.last_good(), tmp_path / "expected.qcow2")
    # The next build: the parent needs no appliance, only to be sealed …
    parent = repository.work(key("1"), "parent")
    assert repository.adopt(BASE, ["p1", "p2"], parent) == 2
    assert parent.finished == {"origin": "a" * 64}
    sealed_as(repository, add, parent, "a" * 64)
    parent.discard()
    # … and its child goes on where it was.
    again = repository.work(key("2"), "child")
    assert repository.adopt(key("1"), ["c1", "c2"], again) == 1
    assert (again.directory / qcow2.header(again.checkpoints[0]).backing).samefile(repository.overlay(key("1")))
    assert same(again.last_good(), tmp_path / "expected.qcow2")


def test_a_child_whose_parent_never_was_published_begins_anew(repository, overlapping):
    overlapping("a" * 64)
    child = repository.work(key("2"), "child")
    assert repository.adopt(key("1"), ["c1", "c2"], child) == 0
    assert child.checkpoints == ()


def test_a_child_does_not_fit_another_build_of_its_parent(repository, add, overlapping):
    parent, _ = overlapping("a" * 64)
    sealed_as(repository, add, parent, "b" * 64)
    child = repository.work(key("2"), "child")
    assert repository.adopt(key("1"), ["c1", "c2"], child) == 0


def test_a_failed_step_is_kept_while_the_parent_is_not_published(repository, add, overlapping, same, tmp_path):
    parent, child = overlapping("a" * 64)
    overlay = child.next_overlay()
    qcow2.create(overlay, backing=child.last_good())
    qcow2.convert(overlay, tmp_path / "expected.qcow2")
    child.fail(overlay, "step 2 failed")
    sealed_as(repository, add, parent, "a" * 64)
    parent.discard()
    assert same(repository.work(key("2"), "child").failed, tmp_path / "expected.qcow2")


def test_a_finished_node_is_only_a_beginning_for_another(repository, overlapping):
    overlapping("a" * 64)
    longer = repository.work(key("3"), "longer")
    assert repository.adopt(BASE, ["p1", "p2", "p3"], longer) == 2
    assert longer.finished is None


def test_finished_without_its_last_file_is_not_finished(repository, overlapping):
    parent, _ = overlapping("a" * 64)
    parent.last_good().unlink()
    again = repository.work(key("1"), "parent")
    assert again.finished is None
    assert repository.adopt(BASE, ["p1", "p2"], again) == 1


@pytest.mark.parametrize("known", ["done", "finished"])
def test_a_torn_record_of_a_finished_node(repository, overlapping, known):
    """Killed between the two lines, it is a node whose steps are all done."""
    parent, _ = overlapping("a" * 64)
    journal = parent.directory / "journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    torn = {"done": b"".join(lines[:-1]) + lines[-1][:9], "finished": b"".join(lines)}[known]
    journal.write_bytes(torn)
    again = repository.work(key("1"), "parent")
    assert again.done == ("p1", "p2")
    assert (again.finished is None) == (known == "done")
