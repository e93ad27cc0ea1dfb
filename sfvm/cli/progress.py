"""Shows events to people while they happen: a live tree on a terminal, plain lines elsewhere. All on stderr.

Listeners are called from several threads.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from sfvm import events
from sfvm.cli.options import Options
from sfvm.cli.output import duration, plain, plural, size, style
from sfvm.errors import UsageError
from sfvm.events import Event, Listener


def started() -> events.Started:
    """The event that a command begins now. To a hundredth of a second: the process's start is counted in clock ticks
    since boot (field 22 of proc(5), stat)."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    ticks = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return events.Started(max(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks, 0.0))


@dataclass(frozen=True)
class Progress:
    """A *listener* to hand down, and *suspended*, a context in which the terminal belongs to somebody else."""

    listener: Listener
    suspended: Callable[[], AbstractContextManager[None]] = nullcontext


@contextmanager
def shown(
    options: Options,
    begun: events.Started | None = None,
    *,
    log: str = "auto",
    file: Path | None = None,
    trace: Path | None = None,
) -> Iterator[Progress]:
    """Show events until the context ends, as *log* says (``auto``: live on a terminal); ``--quiet`` shows notices
    only. With *file* every event is also written there; with *trace* a trace of them at the end. *begun* is the
    first."""
    with ExitStack() as stack:
        recorders = []
        if trace is not None:  # first in, last out: its table comes after all that is shown
            recorders.append(stack.enter_context(profiling(trace, None if options.quiet else sys.stderr)))
        if file is not None:
            recorders.append(stack.enter_context(recording(file)))
        progress = _renderer(options, log, stack)
        for recorder in recorders:
            progress = Progress(_both(recorder, progress.listener), progress.suspended)
        if begun is not None:
            progress.listener(begun)
        yield progress


def _renderer(options: Options, log: str, stack: ExitStack) -> Progress:
    terminal = sys.stderr.isatty()
    if options.quiet:
        return Progress(Plain(sys.stderr, only_notices=True))
    if log == "live" or (log == "auto" and terminal):
        from sfvm.cli.live import Live

        live = stack.enter_context(Live(verbose=options.verbose))
        return Progress(live, live.suspended)
    return Progress(Plain(sys.stderr, verbose=options.verbose))


def _both(one: Listener, other: Listener) -> Listener:
    def listener(event: Event) -> None:
        one(event)
        other(event)

    return listener


@contextmanager
def recording(path: Path) -> Iterator[Listener]:
    """A listener that writes one JSON object per event and line to *path*, flushed at once.

    :raises UsageError: *path* cannot be written
    """
    try:
        file = path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--events {path} cannot be written", why=error.strerror, hint="name another file") from error
    guard = threading.Lock()

    def listener(event: Event) -> None:
        line = json.dumps(event.to_json(), sort_keys=True) + "\n"
        with guard:
            file.write(line)
            file.flush()

    with file:
        yield listener


@contextmanager
def profiling(path: Path, stream: IO[str] | None) -> Iterator[Listener]:
    """A listener whose events become a trace in the file *path* and a table on *stream* when the context ends, however
    it ends. What cannot be written then is a message, no error: the work is done.

    :raises UsageError: *path* cannot be written
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            raise FileExistsError(errno.EEXIST, "it is no regular file")
        draft.touch()
        draft.unlink()  # until the end: whoever is killed leaves nothing
    except OSError as error:
        raise UsageError(f"--profile {path} cannot be written", why=error.strerror, hint="name another file") from error
    from sfvm.cli.trace import chrome, profile, table

    happened: list[Event] = []

    def listener(event: Event) -> None:
        if not isinstance(event, events.Output | events.Bundling):  # many, and no spans
            happened.append(event)

    try:
        yield listener
    finally:
        found = profile(happened, time.time())
        try:
            draft.write_text(json.dumps(chrome(found, shlex.join(["sfvm", *sys.argv[1:]]))), encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            print(f"note: --profile {path} cannot be written: {error.strerror}", file=sys.stderr)
        if stream is not None:
            print(*table(found), sep="\n", file=stream)


class Plain:
    """Lines ``node: what happened``: steps with their times; their output only when *verbose*."""

    def __init__(self, stream: IO[str], *, verbose: bool = False, only_notices: bool = False) -> None:
        self.stream = stream
        self.verbose = verbose
        self.only_notices = only_notices
        self._guard = threading.Lock()
        self._steps: dict[str, int] = {}
        self._phases: dict[tuple[str, str], str] = {}
        self._tenths: dict[str, int] = {}

    def __call__(self, event: Event) -> None:
        if self.only_notices and not isinstance(event, events.Notice):
            return
        with self._guard:
            text = self._text(event)
            if text is not None:
                self.stream.write(text + "\n")
                self.stream.flush()

    def _text(self, event: Event) -> str | None:
        match event:
            case events.Planned(nodes=nodes, cached=cached):
                todo = len(nodes) - len(cached)
                return f"{plural(todo, 'node')} to build, {len(cached)} built already" if todo else None
            case events.NodeFound(node=node):
                return f"{node}: built by another process"
            case events.Waiting(node=node, holder=holder):
                return f"{node}: waiting for {plain(holder)}, which builds the same node"
            case events.Preparing():
                return self._preparing(event)
            case events.ApplianceStarted(node=node, seconds=seconds, accelerator=accelerator, connection=connection):
                how = "restored" if event.restored else "ready"
                return f"{node}: appliance {how} ({accelerator}, {connection}) {self._time(seconds)}"
            case events.NodeStarted(node=node, steps=steps, first=first):
                self._steps[node] = steps
                resumed = f", resumed at step {first}" if first > 1 else ""
                if first > steps > 0:
                    resumed = ", all of them are done: sealing"
                return f"{node}: building, {plural(steps, 'step')}{resumed}"
            case events.StepStarted(node=node, index=index, title=title, expected=expected):
                usual = self._dim(f" (last time {duration(expected)})") if expected and expected >= 10 else ""
                return f"{node}: {self._count(node, index)} {plain(title)}{usual}"
            case events.StepFinished(node=node, index=index, seconds=seconds):
                return f"{node}: {self._count(node, index)} done {self._time(seconds)}"
            case events.Output(node=node, line=line):
                return self._dim(f"{node}: | " + plain(line, keep="\t")) if self.verbose else None
            case events.NodeSealed(node=node, seconds=seconds, size=count):
                return (
                    style(f"{node}: built, {size(count)}", stream=self.stream, fg="green") + ", " + self._time(seconds)
                )
            case events.NodeFailed(node=node):
                return style(f"{node}: failed", stream=self.stream, fg="red")
            case events.Bundling(node=node, format=format_, phase=phase):
                if self._phases.get((node, format_)) == phase:
                    return None
                self._phases[node, format_] = phase
                return f"{node}: {format_}: {phase}"
            case events.Bundled(node=node, format=format_, seconds=seconds):
                text = style(f"{node}: {format_}: bundled", stream=self.stream, fg="green")
                return f"{text} {self._time(seconds)}"
            case events.BundleFailed(node=node, format=format_):
                return style(f"{node}: {format_}: failed", stream=self.stream, fg="red")
            case events.BundleSkipped(node=node, format=format_, reason=reason):
                return self._dim(f"{node}: {format_}: left out: {plain(reason)}")
            case events.Notice(message=message, node=named):
                return f"{named}: {plain(message)}" if named else f"note: {plain(message)}"
        return None

    def _preparing(self, event: events.Preparing) -> str | None:
        """Begin, every tenth, end."""
        tenth = int((event.fraction or 0) * 10)
        if event.done:
            self._tenths.pop(event.what, None)
            return f"{event.what}: ready"
        if self._tenths.get(event.what, -1) >= tenth:
            return None
        self._tenths[event.what] = tenth
        return f"{event.what}: {event.fraction:.0%}" if event.fraction else f"{event.what} …"

    def _count(self, node: str, index: int) -> str:
        return f"[{index}/{self._steps[node]}]" if index and node in self._steps else "[base]"

    def _time(self, seconds: float) -> str:
        return self._dim(duration(seconds))

    def _dim(self, text: str) -> str:
        return style(text, stream=self.stream, dim=True)
