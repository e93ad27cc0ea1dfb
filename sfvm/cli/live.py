"""The live display on a terminal: the tree of nodes, redrawn in place, with what runs in it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live as RichLive
from rich.segment import Segment
from rich.text import Text

from sfvm import events
from sfvm.cli.output import colored, duration, plural, size
from sfvm.cli.state import BLOCKED, CACHED, FAILED, RUNNING, SEALED, WAITING, BuildState, NodeState, printable
from sfvm.cli.treelines import branches
from sfvm.events import Event

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
MARKS = {
    WAITING: ("·", "dim"),
    CACHED: ("✓", "dim"),
    BLOCKED: ("⧗", "yellow"),
    SEALED: ("✓", "green"),
    FAILED: ("✗", "bold red"),
}


class Live:
    """A listener and a context: the display stands while the context does, and its last state stays on the screen."""

    def __init__(self, *, verbose: bool = False) -> None:
        self.verbose = verbose
        self.console = Console(
            file=sys.stderr, no_color=not colored(sys.stderr), highlight=False, emoji=False, markup=False
        )
        self.state = BuildState(time.time())
        self._guard = threading.RLock()
        self._live = self._make()

    def _make(self) -> RichLive:
        return RichLive(self, console=self.console, refresh_per_second=5, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            self.state.stopped = True
        self._live.stop()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """The terminal belongs to somebody else inside this context."""
        self._live.stop()
        try:
            yield
        finally:
            self._live = self._make()
            self._live.start()

    def __call__(self, event: Event) -> None:
        with self._guard:
            self.state.apply(event)
        match event:
            case events.Notice():
                prefix = f"{event.node}: " if event.node else ""
                self.console.print(Text(prefix + event.message, style="yellow"))
            case events.Output() if self.verbose:
                self.console.print(Text(f"{event.node}: {printable(event.line)}", style="dim"), overflow="fold")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._guard:
            lines = frame(self.state, time.time(), console.size.height - 1, options.max_width)
        for line in lines:
            line.truncate(options.max_width, overflow="ellipsis")
            yield from line.render(console)
            yield Segment.line()


def frame(state: BuildState, now: float, height: int, width: int = 100) -> list[Text]:
    """The display of *state* at the time *now*: at most *height* lines, meant for *width* columns."""
    below = [_preparing(state, what, fraction, now) for what, fraction in state.preparing.items()]
    below += [_bundle(state, key, now) for key in state.bundles]
    if state.nodes:
        below.append(_summary(state, now))
    below = below[-height:]
    return _nodes(state, now, max(height - len(below), 0), width) + below


def _nodes(state: BuildState, now: float, room: int, width: int) -> list[Text]:
    """The tree, or as much of it as there is room for. Only what is seen is drawn: a frame of a thousand nodes costs
    no more than one of twenty."""
    drawn = branches([(node.name, node.parent) for node in state.nodes.values()])
    order = [state.nodes[name] for name, *_ in drawn]
    lines: list[Text] = []
    skipped = 0
    for position in _seen(order, room):
        if position is None:
            skipped += 1
            continue
        lines += _more(skipped) + _node(state, order[position], *drawn[position][1:], now, width)
        skipped = 0
    return (lines + _more(skipped))[:room]


def _seen(order: Sequence[NodeState], room: int) -> list[int | None]:
    """For each node its position, or None when there is no room for it: what runs comes first, then what is near."""
    heights = [1 + _has_line(node) for node in order]
    if sum(heights) <= room:
        return list(range(len(order)))
    active = [i for i, node in enumerate(order) if node.phase in (RUNNING, FAILED, BLOCKED)]
    near = active[:20] or [max((i for i, node in enumerate(order) if node.phase == SEALED), default=0)]
    chosen: set[int] = set(active)
    left = room - sum(heights[i] for i in chosen) - len(near) - 1  # lines that say how many are left out
    for i in sorted(range(len(order)), key=lambda i: min(abs(i - j) for j in near)):
        if i in chosen:
            continue
        left -= heights[i]
        if left < 0:
            break
        chosen.add(i)
    return [i if i in chosen else None for i in range(len(order))]


def _has_line(node: NodeState) -> bool:
    return bool(node.line) and node.phase in (RUNNING, BLOCKED, FAILED)


def _more(count: int) -> list[Text]:
    return [Text(f"⋮ {plural(count, 'more node')}", style="dim")] if count else []


def _node(state: BuildState, node: NodeState, margin: str, below: str, now: float, width: int) -> list[Text]:
    text = Text(margin, style="dim", end="")
    if node.phase == RUNNING:
        text.append(_spinner(state, now), style="cyan")
        text.append(node.name, style="bold")
        usual = f" of about {duration(node.step_expected)}" if node.step_expected else ""
        spent = f"  {duration(now - node.step_began)}{usual}"
        title = Text(f"  {_step(node)} {printable(node.title)}")
        title.truncate(max(width - text.cell_len - len(spent), 12), overflow="ellipsis")
        text.append_text(title).append(spent, style="cyan")
    else:
        mark, look = MARKS[node.phase]
        text.append(mark + " ", style=look)
        text.append(node.name, style="dim" if node.phase in (CACHED, WAITING) else "")
        text.append(_outcome(node), style="dim")
    lines = [text]
    if _has_line(node):
        lines.append(Text(below + "    " + printable(node.line).strip(), style="dim", end=""))
    return lines


def _step(node: NodeState) -> str:
    return f"[{node.index}/{node.steps}]" if node.index else "[base]"


def _outcome(node: NodeState) -> str:
    match node.phase:
        case "sealed":
            return f"  {duration(node.seconds)}  {size(node.size)}"
        case "failed":
            return f"  {_step(node)} {printable(node.title)}" if node.title else "  failed"
        case "waiting" if node.expected:
            return f"  about {duration(node.expected)}"
        case "cached":
            return "  built"
    return ""


def _spinner(state: BuildState, now: float) -> str:
    return "■ " if state.stopped else SPINNER[int(now * 8) % len(SPINNER)] + " "


def _preparing(state: BuildState, what: str, fraction: float | None, now: float) -> Text:
    text = Text(_spinner(state, now), style="cyan", end="")
    text.append(what, style="default")
    if fraction is not None:
        text.append(f"  {bar(fraction)} {fraction:.0%}", style="cyan")
    return text


def _bundle(state: BuildState, key: tuple[str, str], now: float) -> Text:
    bundle = state.bundles[key]
    name = f"{bundle.node} → {bundle.format}"
    if bundle.seconds is not None:
        return Text.assemble(("✓ ", "green"), name, (f"  {duration(bundle.seconds)}", "dim"), end="")
    if bundle.failed:
        return Text.assemble(MARKS[FAILED], " ", name, (f"  {bundle.phase}", "dim"), end="")
    text = _preparing(state, f"{name}  {bundle.phase}", bundle.fraction, now)
    text.append(f"  {duration(now - bundle.began)}", style="cyan")
    return text


def _summary(state: BuildState, now: float) -> Text:
    done = sum(node.phase in (SEALED, CACHED) for node in state.nodes.values())
    text = f"{done} of {plural(len(state.nodes), 'node')} · {duration(now - state.began)}"
    left = state.remaining(now)
    return Text(text + (f" · about {duration(left)} of work left" if left else ""), style="dim", end="")


def bar(fraction: float, width: int = 20) -> str:
    """A bar of *width* cells, filled to *fraction* (0 to 1)."""
    full = round(min(max(fraction, 0.0), 1.0) * width)
    return "━" * full + "╌" * (width - full)
