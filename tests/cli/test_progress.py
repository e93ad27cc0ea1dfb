"""How events look."""

from __future__ import annotations

import io
import json
import threading

import pytest

from sfvm import events
from sfvm.cli.live import frame
from sfvm.cli.progress import Plain, recording
from sfvm.cli.state import BuildState, printable
from sfvm.errors import UsageError

PLANNED = events.Planned(
    nodes=("root", "web", "db"),
    cached=("root",),
    parents={"root": None, "web": "root", "db": "root"},
    expected={"root": 0.0, "web": 30.0, "db": None},
)
STORY = (
    PLANNED,
    events.Preparing("the appliance"),
    events.Preparing("the appliance", 0.04),
    events.Preparing("the appliance", 0.5),
    events.Preparing("the appliance", done=True),
    events.NodeStarted("web", "k" * 64, 2),
    events.ApplianceStarted("web", 8.1, "tcg", "direct"),
    events.StepStarted("web", 1, "packages install nginx", "web.xml:3:5", 12.0),
    events.Output("web", "Unpacking nginx"),
    events.StepFinished("web", 1, 11.2),
    events.StepStarted("web", 2, "file /etc/motd", "web.xml:4:5"),
    events.StepFinished("web", 2, 0.1),
    events.NodeSealed("web", "k" * 64, 21.0, 3 << 20),
    events.NodeFailed("db", "boom"),
    events.Bundling("web", "qcow2", "convert", 0.2),
    events.Bundling("web", "qcow2", "convert", 0.9),
    events.Bundled("web", "qcow2", "out/web-qcow2", ("web.qcow2",), 3.3),
    events.Notice("by the way", "web"),
)


def plain(*story, **options):
    stream = io.StringIO()
    listener = Plain(stream, **options)
    for event in story:
        listener(event)
    return stream.getvalue().splitlines()


def test_plain_lines():
    assert plain(*STORY) == [
        "2 nodes to build, 1 built already",
        "the appliance …",
        "the appliance: 50%",
        "the appliance: ready",
        "web: building, 2 steps",
        "web: appliance ready (tcg, direct) 8.1 s",
        "web: [1/2] packages install nginx (last time 12 s)",
        "web: [1/2] done 11 s",
        "web: [2/2] file /etc/motd",
        "web: [2/2] done 0.1 s",
        "web: built, 3.0 MiB, 21 s",
        "db: failed",
        "web: qcow2: convert",
        "web: qcow2: bundled 3.3 s",
        "web: by the way",
    ]


def test_verbose_adds_the_output():
    assert "web: | Unpacking nginx" in plain(*STORY, verbose=True)


def test_quiet_leaves_notices():
    assert plain(*STORY, only_notices=True) == ["web: by the way"]


def test_nothing_to_do_is_not_announced():
    assert plain(events.Planned(("a",), ("a",), {"a": None}, {"a": 0.0})) == []


def test_resumed_builds_say_so():
    assert plain(events.NodeStarted("web", "k", 5, 3)) == ["web: building, 5 steps, resumed at step 3"]
    assert plain(events.NodeStarted("web", "k", 5, 6)) == ["web: building, 5 steps, all of them are done: sealing"]
    assert plain(events.NodeStarted("web", "k", 0, 1)) == ["web: building, 0 steps"]


def test_lines_from_many_threads_stay_whole():
    stream = io.StringIO()
    listener = Plain(stream, verbose=True)
    line = "x" * 200

    def talk(name):
        for _ in range(200):
            listener(events.Output(name, line))

    threads = [threading.Thread(target=talk, args=(f"n{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert sorted(set(lines)) == [f"n{i}: | {line}" for i in range(4)]
    assert len(lines) == 800


def test_events_file_has_one_object_per_event_at_once(tmp_path):
    path = tmp_path / "events.jsonl"
    with recording(path) as listener:
        for count, event in enumerate(STORY, start=1):
            listener(event)
            assert len(path.read_text().splitlines()) == count  # flushed: a reader may follow
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["event"] for record in read] == [type(event).__name__ for event in STORY]
    assert read[-1]["message"] == "by the way"


def test_events_file_that_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="--events"), recording(tmp_path / "no" / "where"):
        pass


def state(*story):
    found = BuildState(began=0.0)
    for event in story:
        found.apply(event)
    return found


def lines(found, now=100.0, height=40):
    return [line.plain.rstrip() for line in frame(found, now, height)]


def test_the_live_tree_shows_what_runs():
    found = state(*STORY[:9])
    found.nodes["web"].began = found.nodes["web"].step_began = 94.0
    assert lines(found) == [
        "✓ root  built",
        "├─ ⠋ web  [1/2] packages install nginx  6.0 s of about 12 s",
        "│      Unpacking nginx",
        "└─ · db",
        "1 of 3 nodes · 1 min 40 s",
    ]


def test_the_live_tree_at_the_end():
    assert lines(state(*STORY)) == [
        "✓ root  built",
        "├─ ✓ web  21 s  3.0 MiB",
        "└─ ✗ db  failed",
        "✓ web → qcow2  3.3 s",
        "2 of 3 nodes · 1 min 40 s",
    ]


def test_a_long_title_leaves_room_for_the_time():
    found = state(PLANNED, events.NodeStarted("web", "k", 1), events.StepStarted("web", 1, "run " + "x" * 200, "w:1:1"))
    found.nodes["web"].step_began = 95.0
    (line,) = (text.plain for text in frame(found, 100.0, 40, 60) if "web" in text.plain)
    assert line.endswith("…  5.0 s")
    assert len(line) == 60


def test_what_was_stopped_does_not_look_as_if_it_ran():
    found = state(*STORY[:9])
    found.stopped = True
    assert any(line.startswith("├─ ■ web") for line in lines(found))


def test_a_bundle_alone_shows_no_tree():
    found = state(events.Output("web", "x"), events.ApplianceStarted("web", 1.0, "tcg", "direct"), *STORY[-4:-1])
    assert lines(found) == ["✓ web → qcow2  3.3 s"]


def test_preparing_shows_a_bar_until_it_is_done():
    assert any("50%" in line for line in lines(state(*STORY[:4])))
    assert not any("appliance" in line for line in lines(state(*STORY[:5])))


@pytest.mark.parametrize("height", [3, 10, 24])
def test_a_tree_larger_than_the_terminal_shows_what_runs(height):
    names = tuple(f"n{i}" for i in range(1000))
    parents = {name: names[i - 1] if i else None for i, name in enumerate(names)}
    found = state(
        events.Planned(names, (), parents, dict.fromkeys(names, 1.0)),
        events.NodeStarted("n500", "k", 3),
        events.Output("n500", "busy"),
    )
    shown = lines(found, height=height)
    assert len(shown) <= height
    if height > 3:
        assert any("n500 " in line for line in shown)
        assert shown[0] == f"⋮ {next(i for i in range(1000) if f' n{i} ' in shown[1])} more nodes"
    assert shown[-1].startswith("0 of 1000 nodes")


def test_what_a_step_prints_cannot_disturb_the_terminal():
    assert printable("10%\r20%\r\x1b[31m30%\x1b[0m\tdone\x07\r") == "30% done"
    assert printable("\x1b]0;title\x07text\x1b[2K") == "text"


def test_remaining_time_is_known_only_with_history():
    found = state(PLANNED)
    assert found.remaining(0.0) is None
    found.nodes["db"].expected = 10.0
    assert found.remaining(0.0) == 40.0
    found.apply(events.NodeStarted("web", "k", 1, time=100.0))
    assert found.remaining(125.0) == 15.0
    assert found.remaining(500.0) == 10.0


def test_a_node_that_another_process_has_built_is_not_waited_for():
    from sfvm.cli.state import BLOCKED, CACHED, BuildState

    state = BuildState(0.0)
    state.apply(events.Waiting("web", "pid 7"))
    assert (state.nodes["web"].phase, state.nodes["web"].line) == (BLOCKED, "waiting for pid 7")
    state.apply(events.NodeFound("web"))
    assert (state.nodes["web"].phase, state.nodes["web"].line) == (CACHED, "")
