"""Where the time of a build went: spans made from its events, as a trace for other tools and as a table for people.

Pure. A span's *track* is a node, a bundle, or sfvm itself; within a track spans nest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sfvm import events
from sfvm.cli.output import columns
from sfvm.cli.state import printable
from sfvm.events import Event

MAIN = "sfvm"
"""The track of what belongs to no node."""
ROWS = 30
"""So many rows a table has at most; the smallest ones are added up."""
NOTHING = 0.005
"""Seconds that the table would show as zero."""
WIDTH = 60
"""Characters of a phase's name."""


@dataclass(frozen=True)
class Span:
    """Something that happened from *begin* to *end* (seconds since the epoch), *own* seconds of it in no span inside.
    *phase* is what a table adds up by; *depth* is how many spans of the track are around it."""

    track: str
    name: str
    phase: str
    begin: float
    end: float
    own: float
    depth: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """A whole command: its *spans*, by track and time, between *begin* and *end* (seconds since the epoch)."""

    spans: tuple[Span, ...]
    begin: float
    end: float

    @property
    def elapsed(self) -> float:
        return self.end - self.begin


@dataclass
class _Open:
    name: str
    phase: str
    begin: float
    details: dict[str, Any]
    inside: float = 0.0


class _Track:
    """The spans of one track. They nest whatever the clock does: time never goes backwards in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open: list[_Open] = []
        self.done: list[Span] = []
        self.now = 0.0

    def begin(self, name: str, phase: str, when: float, **details: Any) -> None:
        self.now = max(self.now, when)
        self.open.append(_Open(name, phase, self.now, details))

    def end(self, name: str | None, when: float, **details: Any) -> None:
        """Close the innermost span called *name* and all inside it; without a name, every span there is."""
        names = [span.name for span in self.open]
        if name is not None and name not in names:
            return
        depth = 0 if name is None else len(names) - 1 - names[::-1].index(name)
        self.now = max(self.now, when)
        while len(self.open) > depth:
            span = self.open.pop()
            spent = self.now - span.begin
            if self.open:
                self.open[-1].inside += spent
            own = max(spent - span.inside, 0.0)
            given = {**span.details, **details}
            self.done.append(Span(self.name, span.name, span.phase, span.begin, self.now, own, len(self.open), given))


def profile(happened: Iterable[Event], end: float) -> Profile:
    """The profile of a command from its events, in the order in which they were told; *end* is when it was over
    (seconds since the epoch). What was still going on then ends there, marked as ``unfinished``."""
    tracks: dict[str, _Track] = {MAIN: _Track(MAIN)}

    def track(name: str) -> _Track:
        return tracks.setdefault(name, _Track(name))

    main = tracks[MAIN]
    begin: float | None = None
    for event in happened:
        if begin is None:
            begin = event.time
        if not isinstance(event, events.Started):
            main.end("planning", event.time)
        match event:
            case events.Started(seconds=seconds):
                begin = event.time - seconds
                main.begin("start-up", "start-up", begin)
                main.end("start-up", event.time)
                main.begin("planning", "planning", event.time)
            case events.Preparing(what=what, done=True):
                for each in tracks.values():
                    each.end(what, event.time)
            case events.Preparing(what=what):
                if not any(span.name == what for each in tracks.values() for span in each.open):
                    # It does not tell for whom: most likely for what began last.
                    busy = [each for each in tracks.values() if each.open]
                    host = max(busy, key=lambda each: each.open[-1].begin, default=main)
                    host.begin(what, what, event.time)
            case events.Waiting(node=node, holder=holder):
                track(node).begin("waiting", "waiting for another build", event.time, holder=holder)
            case events.NodeFound(node=node):
                track(node).end("waiting", event.time)
            case events.NodeStarted(node=node, key=key):
                track(node).end("waiting", event.time)
                track(node).begin(node, "between steps", event.time, key=key)
            case events.StepStarted(node=node, index=index, title=title, place=place):
                number = f"[{index}]" if index else "[base]"
                track(node).begin(title, f"{node} {number} {title}", event.time, index=index, place=place)
            case events.StepFinished(node=node):
                if (steps := track(node)).open:
                    steps.end(steps.open[-1].name, event.time)
            case events.NodeSealed(node=node, size=size):
                track(node).end(node, event.time, size=size)
            case events.NodeFailed(node=node):
                track(node).end(None, event.time, failed=True)
            case events.PhaseStarted(node=node, name=name, format=format_):
                track(_called(node, format_)).begin(name, name, event.time)
            case events.PhaseFinished(node=node, name=name, format=format_):
                track(_called(node, format_)).end(name, event.time)
    begin = end if begin is None else begin
    for each in tracks.values():
        each.end(None, end, unfinished=True)
    ordered = (sorted(each.done, key=lambda span: (span.begin, span.depth)) for each in tracks.values())
    return Profile(tuple(span for found in ordered for span in found), begin, max(end, begin))


def _called(node: str, format_: str | None) -> str:
    return f"{node} → {format_}" if format_ else node or MAIN


def phases(found: Profile) -> dict[str, float]:
    """The seconds of each phase, in the order in which they first began, nothing counted twice within a track; last
    ``other``: when nothing that is told was going on. Tracks that ran side by side add up to more than the elapsed
    time."""
    spent: dict[str, float] = {}
    for span in sorted(found.spans, key=lambda span: (span.begin, span.depth)):
        spent[span.phase] = spent.get(span.phase, 0.0) + span.own
    return {**spent, "other": found.elapsed - _covered(found)}


def _covered(found: Profile) -> float:
    """Seconds in which at least one span was open."""
    total, reached = 0.0, found.begin
    for span in sorted(found.spans, key=lambda span: span.begin):
        total += max(span.end - max(span.begin, reached), 0.0)
        reached = max(reached, span.end)
    return total


def table(found: Profile) -> list[str]:
    """The phases as lines: name, seconds, share of the elapsed time."""
    spent = phases(found)
    large = sorted((name for name in spent if spent[name] >= NOTHING), key=lambda name: -spent[name])[:ROWS]
    rows = [(name, seconds) for name, seconds in spent.items() if name in large]
    if len(large) < len(spent):
        rows.append((f"{len(spent) - len(large)} more", sum(spent[name] for name in spent if name not in large)))
    elapsed = found.elapsed or 1.0
    cells = [(_shortened(name), f"{seconds:8.2f} s", f"{seconds / elapsed:4.0%}") for name, seconds in rows]
    lines = columns([*cells, ("elapsed", f"{found.elapsed:8.2f} s", f"{1:4.0%}")])
    work = sum(spent.values())
    if work > found.elapsed * 1.01:
        lines.append(f"phases ran side by side: {work:.2f} s of them in {found.elapsed:.2f} s")
    return lines


def _shortened(text: str) -> str:
    text = printable(text)
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"


def chrome(found: Profile, command: str) -> dict[str, Any]:
    """The profile in the Trace Event Format, which Perfetto and speedscope read: complete events, in microseconds.
    ``otherData`` has the table's content in seconds."""
    numbers = {track: number for number, track in enumerate(dict.fromkeys(span.track for span in found.spans), start=1)}
    told: list[dict[str, Any]] = [{"ph": "M", "name": "process_name", "pid": 1, "tid": 0, "args": {"name": command}}]
    for track, number in numbers.items():
        told.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": number, "args": {"name": track}})
        told.append({"ph": "M", "name": "thread_sort_index", "pid": 1, "tid": number, "args": {"sort_index": number}})
    for span in found.spans:
        # Rounded one by one, so that what nests goes on nesting.
        begin, end = (round((when - found.begin) * 1e6) for when in (span.begin, span.end))
        told.append(
            {
                "ph": "X",
                "name": span.name,
                "cat": span.phase,
                "pid": 1,
                "tid": numbers[span.track],
                "ts": begin,
                "dur": end - begin,
                "args": dict(span.details),
            }
        )
    other = {
        "command": command,
        "began": found.begin,
        "elapsed": found.elapsed,
        "phases": phases(found),
    }
    return {"traceEvents": told, "displayTimeUnit": "ms", "otherData": other}
