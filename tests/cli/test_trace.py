"""Profiles: spans from events, and what is made of them."""

from __future__ import annotations

import io
import json
import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm import events
from sfvm.cli import progress
from sfvm.cli.progress import profiling
from sfvm.cli.trace import ROWS, chrome, phases, profile, table
from sfvm.errors import Interrupted, UsageError

PLANNED = events.Planned(("root", "web"), (), {"root": None, "web": "root"}, {"root": None, "web": None}, time=101.0)
STORY = (
    events.Started(0.5, time=100.5),
    PLANNED,
    events.Preparing("a kernel", time=101.0),
    events.Preparing("a kernel", 0.5, time=102.0),
    events.Preparing("a kernel", done=True, time=103.0),
    events.Waiting("root", "pid 7", time=103.0),
    events.NodeStarted("root", "k1", 0, time=104.0),
    events.PhaseStarted("root", "appliance", time=104.0),
    events.Preparing("a proof", time=105.0),
    events.Preparing("a proof", done=True, time=106.5),
    events.PhaseFinished("root", "appliance", 4.0, time=108.0),
    events.ApplianceStarted("root", 4.0, "tcg", "direct", time=108.0),
    events.StepStarted("root", 0, "busybox", "root.xml:3:3", time=108.0),
    events.StepFinished("root", 0, 2.0, time=110.0),
    events.PhaseStarted("root", "sealing", time=110.5),
    events.PhaseFinished("root", "sealing", 1.0, time=111.5),
    events.NodeSealed("root", "k1", 7.5, 4096, time=111.5),
    events.NodeStarted("web", "k2", 1, time=111.5),
    events.StepStarted("web", 1, "file /etc/motd", "web.xml:5:5", time=111.5),
    events.StepFinished("web", 1, 1.0, time=112.5),
    events.PhaseStarted("web", "sealing", time=112.5),
    events.PhaseFinished("web", "sealing", 0.5, time=113.0),
    events.NodeSealed("web", "k2", 1.5, 512, time=113.0),
    events.PhaseStarted("web", "finishing", time=113.0),
    events.PhaseFinished("web", "finishing", 3.0, time=116.0),
    events.PhaseStarted("web", "convert qcow2", "qcow2", time=116.0),
    events.PhaseStarted("web", "convert raw", "raw", time=116.0),
    events.PhaseFinished("web", "convert raw", 1.0, "raw", time=117.0),
    events.PhaseFinished("web", "convert qcow2", 3.0, "qcow2", time=119.0),
)


def spans(found):
    return [(span.track, span.depth, span.name, span.begin - 100, span.end - 100, span.own) for span in found.spans]


def test_waiting_ends_when_another_process_has_built_the_node():
    story = (events.Waiting("web", "pid 7", time=101.0), events.NodeFound("web", time=103.0))
    assert spans(profile(story, 110.0)) == [("web", 0, "waiting", 1.0, 3.0, 2.0)]


def test_spans_lie_on_the_tracks_of_nodes_and_bundles():
    assert spans(profile(STORY, 120.0)) == [
        ("sfvm", 0, "start-up", 0.0, 0.5, 0.5),
        ("sfvm", 0, "planning", 0.5, 1.0, 0.5),
        ("sfvm", 0, "a kernel", 1.0, 3.0, 2.0),
        ("root", 0, "waiting", 3.0, 4.0, 1.0),
        ("root", 0, "root", 4.0, 11.5, 0.5),
        ("root", 1, "appliance", 4.0, 8.0, 2.5),
        ("root", 2, "a proof", 5.0, 6.5, 1.5),
        ("root", 1, "busybox", 8.0, 10.0, 2.0),
        ("root", 1, "sealing", 10.5, 11.5, 1.0),
        ("web", 0, "web", 11.5, 13.0, 0.0),
        ("web", 1, "file /etc/motd", 11.5, 12.5, 1.0),
        ("web", 1, "sealing", 12.5, 13.0, 0.5),
        ("web", 0, "finishing", 13.0, 16.0, 3.0),
        ("web → qcow2", 0, "convert qcow2", 16.0, 19.0, 3.0),
        ("web → raw", 0, "convert raw", 16.0, 17.0, 1.0),
    ]


def test_phases_add_up_to_the_elapsed_time_and_what_ran_side_by_side():
    found = profile(STORY, 120.0)
    assert found.elapsed == 20.0
    assert phases(found) == {
        "start-up": 0.5,
        "planning": 0.5,
        "a kernel": 2.0,
        "waiting for another build": 1.0,
        "between steps": 0.5,
        "appliance": 2.5,
        "a proof": 1.5,
        "root [base] busybox": 2.0,
        "sealing": 1.5,
        "web [1] file /etc/motd": 1.0,
        "finishing": 3.0,
        "convert qcow2": 3.0,
        "convert raw": 1.0,
        "other": 1.0,
    }
    lines = table(found)
    assert [line.split() for line in lines[:1] + lines[-2:-1]] == [
        ["start-up", "0.50", "s", "2%"],
        ["elapsed", "20.00", "s", "100%"],
    ]
    assert lines[-1] == "phases ran side by side: 21.00 s of them in 20.00 s"


def test_a_table_has_few_rows_and_adds_up_the_smallest():
    steps = [
        event
        for index in range(1, 101)
        for event in (
            events.StepStarted("web", index, f"step {'x' * 100}\x1b[31m{index}", "w:1:1", time=float(index * index)),
            events.StepFinished("web", index, 1.0, time=float(index * index + index)),
        )
    ]
    lines = table(profile([events.NodeStarted("web", "k", 100, time=0.0), *steps], 20_000.0))
    assert len(lines) == ROWS + 2
    assert lines[-2].split()[:2] == ["72", "more"]  # of 102: with what is between steps, and nothing else
    assert all(line.isprintable() and len(line) < 90 for line in lines)


def test_what_failed_and_what_was_not_finished_says_so():
    begun = STORY[:13]
    failed = profile([*begun, events.NodeFailed("root", "boom", time=109.0)], 110.0)
    assert {span.name: dict(span.details) for span in failed.spans if span.track == "root" and span.depth < 2} == {
        "waiting": {"holder": "pid 7"},
        "root": {"key": "k1", "failed": True},
        "appliance": {},
        "busybox": {"index": 0, "place": "root.xml:3:3", "failed": True},
    }
    stopped = profile(begun, 110.0)
    assert [(span.name, span.end) for span in stopped.spans if span.details.get("unfinished")] == [
        ("root", 110.0),
        ("busybox", 110.0),
    ]


def test_the_trace_is_what_viewers_read():
    written = json.loads(json.dumps(chrome(profile(STORY, 120.0), "sfvm build web")))
    told = written["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in told if event["name"] == "thread_name"}
    assert sorted(names.values()) == sorted(["sfvm", "root", "web", "web → qcow2", "web → raw"])
    complete = [event for event in told if event["ph"] == "X"]
    assert len(complete) == 15
    (step,) = (event for event in complete if event["name"] == "file /etc/motd")
    assert (names[step["tid"]], step["ts"], step["dur"]) == ("web", 11_500_000, 1_000_000)
    assert step["args"] == {"index": 1, "place": "web.xml:5:5"}
    assert {event["ph"] for event in told} == {"M", "X"}
    assert written["otherData"]["phases"]["appliance"] == 2.5
    assert written["otherData"]["elapsed"] == 20.0


MOMENTS = st.floats(0, 1000)
NODES = st.sampled_from(["a", "b"])
NAMES = st.sampled_from(["a", "x", "y"])
FORMATS = st.sampled_from([None, "raw"])
ANY = st.one_of(
    st.builds(events.Started, MOMENTS, time=MOMENTS),
    st.builds(events.Preparing, NAMES, done=st.booleans(), time=MOMENTS),
    st.builds(events.Waiting, NODES, st.just("pid"), time=MOMENTS),
    st.builds(events.NodeStarted, NODES, st.just("k"), st.just(2), time=MOMENTS),
    st.builds(events.StepStarted, NODES, st.integers(0, 2), NAMES, st.just("p"), time=MOMENTS),
    st.builds(events.StepFinished, NODES, st.integers(0, 2), MOMENTS, time=MOMENTS),
    st.builds(events.PhaseStarted, NODES, NAMES, FORMATS, time=MOMENTS),
    st.builds(events.PhaseFinished, NODES, NAMES, MOMENTS, FORMATS, time=MOMENTS),
    st.builds(events.NodeSealed, NODES, st.just("k"), MOMENTS, st.just(1), time=MOMENTS),
    st.builds(events.NodeFailed, NODES, st.just("boom"), time=MOMENTS),
)


@given(st.lists(ANY, max_size=30), MOMENTS)
def test_spans_nest_whatever_happens_and_whatever_the_clock_does(happened, end):
    """A clock may be set back, an interrupt may come between any two events."""
    found = profile(happened, end)
    told = [event for event in chrome(found, "")["traceEvents"] if event["ph"] == "X"]
    assert all(event["dur"] >= 0 for event in told)
    around: dict[int, list[tuple[int, int]]] = {}
    for event in told:
        stack = around.setdefault(event["tid"], [])
        while stack and stack[-1][1] <= event["ts"] and stack[-1] != (event["ts"], event["ts"] + event["dur"]):
            stack.pop()
        if stack:
            assert stack[-1][0] <= event["ts"]
            assert event["ts"] + event["dur"] <= stack[-1][1]
        stack.append((event["ts"], event["ts"] + event["dur"]))
    assert all(span.own >= 0 for span in found.spans)


def test_the_process_is_older_than_its_command():
    assert progress.started().seconds > 0


@pytest.mark.parametrize("error", [None, ValueError("a bug"), Interrupted(signal.SIGINT)])
def test_the_file_is_whole_however_the_build_ends(tmp_path, error):
    path, stream = tmp_path / "trace.json", io.StringIO()
    path.write_text("an older one")
    try:
        with profiling(path, stream) as listener:
            for event in STORY[:13]:
                listener(event)
            assert path.read_text() == "an older one"
            assert list(tmp_path.iterdir()) == [path]
            if error:
                raise error
    except (ValueError, Interrupted) as caught:
        assert caught is error
    told = json.loads(path.read_text())["traceEvents"]
    assert "busybox" in {event["name"] for event in told}
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]
    assert "root [base] busybox" in stream.getvalue()


def test_a_trace_that_cannot_be_written_is_known_before_the_build(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "no" / "where", tmp_path / "fifo"):
        with pytest.raises(UsageError, match="--profile"), profiling(path, None):
            raise AssertionError("the build began")
    assert [entry.name for entry in tmp_path.iterdir()] == ["fifo"]


def test_a_trace_that_cannot_be_written_later_does_not_fail_the_build(tmp_path, capsys):
    with profiling(tmp_path / "trace.json", None):
        (tmp_path / "trace.json").mkdir()
    assert "trace.json cannot be written" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.json"]


def test_a_cached_build_has_a_profile(world):
    world.put("leaf")
    done = world.run("build", "leaf", "--profile", "trace.json")
    assert done.returncode == 0
    assert "start-up" in done.stderr
    assert "planning" in done.stderr
    told = json.loads((world.home / "trace.json").read_text())
    assert [event["name"] for event in told["traceEvents"] if event["ph"] == "X"] == ["start-up", "planning"]
    assert world.run("build", "leaf", "--profile", "trace.json", "--quiet").stderr == ""


def test_phases_tell_their_ends_however_they_end():
    told = []
    with pytest.raises(KeyError), events.phase(events.within(told.append, "qcow2, raw"), "web", "finishing"):
        told.append(events.Output("web", "x"))
        with events.phase(told.append, "web", "convert raw", "raw"):
            raise KeyError
    assert [(type(e).__name__, getattr(e, "name", ""), getattr(e, "format", "")) for e in told] == [
        ("PhaseStarted", "finishing", "qcow2, raw"),
        ("Output", "", ""),
        ("PhaseStarted", "convert raw", "raw"),
        ("PhaseFinished", "convert raw", "raw"),
        ("PhaseFinished", "finishing", "qcow2, raw"),
    ]
    assert all(event.seconds >= 0 for event in told[3:])
