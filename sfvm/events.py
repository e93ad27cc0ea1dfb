"""What happens while sfvm works, as values. Renderers and the ``--events`` file listen; nothing prints."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """The base of all events; *time* is seconds since the epoch."""

    time: float = field(default_factory=time.time)

    def to_json(self) -> dict[str, Any]:
        """The event as one JSON object; ``event`` is its type."""
        return {"event": type(self).__name__, **dataclasses.asdict(self)}


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of those who do not listen."""


@dataclass(frozen=True)
class Started(Event):
    """A command begins, *seconds* after its process was started."""

    seconds: float


@dataclass(frozen=True)
class Planned(Event):
    """A build starts: *nodes* in build order, those among them that are *cached*, and the expected seconds of each."""

    nodes: tuple[str, ...]
    cached: tuple[str, ...]
    parents: dict[str, str | None]
    expected: dict[str, float | None]


@dataclass(frozen=True)
class Waiting(Event):
    """Another process builds the same node; *holder* names it."""

    node: str
    holder: str


@dataclass(frozen=True)
class NodeFound(Event):
    """A node that was to be built is there: another process has built it meanwhile."""

    node: str


@dataclass(frozen=True)
class Preparing(Event):
    """Something is made ready once (appliance, download); *fraction* is 0 to 1, or None when unknown."""

    what: str
    fraction: float | None = None
    done: bool = False


@dataclass(frozen=True)
class ApplianceStarted(Event):
    """A helper VM is ready after *seconds*; *restored* from a saved state, or booted."""

    node: str
    seconds: float
    accelerator: str
    connection: str
    restored: bool = False


@dataclass(frozen=True)
class NodeStarted(Event):
    """A node's first step to do is number *first* (from 1) of *steps*; above 1 when the build resumes, above *steps*
    when nothing is left but to seal it."""

    node: str
    key: str
    steps: int
    first: int = 1


@dataclass(frozen=True)
class StepStarted(Event):
    """Step *index* (from 1) begins; *expected* is seconds from history."""

    node: str
    index: int
    title: str
    place: str
    expected: float | None = None


@dataclass(frozen=True)
class StepFinished(Event):
    """Step *index* ended well after *seconds*."""

    node: str
    index: int
    seconds: float


@dataclass(frozen=True)
class PhaseStarted(Event):
    """What is no step begins for a *node* (empty: for the build as a whole), or for its bundle in *format* (formats
    that are made together: their names, joined)."""

    node: str
    name: str
    format: str | None = None


@dataclass(frozen=True)
class PhaseFinished(Event):
    """A phase has ended after *seconds*, well or not. Phases of one node or bundle nest."""

    node: str
    name: str
    seconds: float
    format: str | None = None


@dataclass(frozen=True)
class Output(Event):
    """One line that a step (or the appliance's console) wrote, without its newline."""

    node: str
    line: str


@dataclass(frozen=True)
class NodeSealed(Event):
    """A node is finished and in the repository; *size* is its overlay's bytes."""

    node: str
    key: str
    seconds: float
    size: int


@dataclass(frozen=True)
class NodeFailed(Event):
    """A node failed; *message* is the rendered error."""

    node: str
    message: str


@dataclass(frozen=True)
class Bundling(Event):
    """A phase of a bundle; *fraction* is 0 to 1, or None when unknown."""

    node: str
    format: str
    phase: str
    fraction: float | None = None


@dataclass(frozen=True)
class Bundled(Event):
    """A bundle is complete in *directory*."""

    node: str
    format: str
    directory: str
    artifacts: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class BundleFailed(Event):
    """A bundle cannot be made; *message* is the rendered error."""

    node: str
    format: str
    message: str


@dataclass(frozen=True)
class BundleSkipped(Event):
    """Of all formats, one that does not fit the node; *reason* says why."""

    node: str
    format: str
    reason: str


@dataclass(frozen=True)
class Notice(Event):
    """Something the user should know that is not an error."""

    message: str
    node: str | None = None


def within(listener: Listener, format: str) -> Listener:
    """*listener*, to whom phases of a node are told as those of its bundle in *format*."""

    def tell(event: Event) -> None:
        if isinstance(event, PhaseStarted | PhaseFinished) and event.format is None:
            event = dataclasses.replace(event, format=format)
        listener(event)

    return tell


@contextmanager
def phase(listener: Listener, node: str, name: str, format: str | None = None) -> Iterator[None]:
    """Tell *listener* when what happens inside this context begins, and how long it takes."""
    listener(PhaseStarted(node, name, format))
    begun = time.monotonic()
    try:
        yield
    finally:
        listener(PhaseFinished(node, name, time.monotonic() - begun, format))
