"""What a build looks like at one instant, gathered from events: what the live display shows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sfvm import events
from sfvm.events import Event

WAITING, CACHED, BLOCKED, RUNNING, SEALED, FAILED = "waiting", "cached", "blocked", "running", "sealed", "failed"


@dataclass
class NodeState:
    """A node; *began* is when it, *step_began* when its running step began (seconds since the epoch); *line* is the
    last one that it wrote, as it came."""

    name: str
    parent: str | None = None
    phase: str = WAITING
    steps: int = 0
    index: int = 0
    title: str = ""
    began: float = 0.0
    step_began: float = 0.0
    step_expected: float | None = None
    expected: float | None = None
    line: str = ""
    seconds: float | None = None
    size: int | None = None


@dataclass
class BundleState:
    """A bundle being made, or made when *seconds* is set, or *failed*."""

    node: str
    format: str
    phase: str = ""
    fraction: float | None = None
    began: float = 0.0
    seconds: float | None = None
    failed: bool = False


@dataclass
class BuildState:
    """Everything shown; :meth:`apply` takes events in any order that a build can produce. *stopped*: nothing runs any
    more, whatever the last events said."""

    began: float
    nodes: dict[str, NodeState] = field(default_factory=dict)
    preparing: dict[str, float | None] = field(default_factory=dict)
    bundles: dict[tuple[str, str], BundleState] = field(default_factory=dict)
    stopped: bool = False

    def apply(self, event: Event) -> None:
        """Take *event* in."""
        match event:
            case events.Planned():
                for name in event.nodes:
                    phase = CACHED if name in event.cached else WAITING
                    self.nodes[name] = NodeState(
                        name, event.parents.get(name), phase, expected=event.expected.get(name)
                    )
            case events.Waiting():
                node = self._node(event.node)
                node.phase, node.line = BLOCKED, f"waiting for {event.holder}"
            case events.NodeFound():
                node = self._node(event.node)
                node.phase, node.line = CACHED, ""
            case events.Preparing(done=True):
                self.preparing.pop(event.what, None)
            case events.Preparing():
                self.preparing[event.what] = event.fraction
            case events.ApplianceStarted() if event.node in self.nodes:
                self._node(event.node).line = f"appliance ready ({event.accelerator}, {event.connection})"
            case events.NodeStarted():
                node = self._node(event.node)
                node.phase, node.began, node.steps = RUNNING, event.time, event.steps
                node.title = "sealing" if event.first > event.steps > 0 else "starting"
                node.line, node.index, node.step_began = "", event.first - 1, event.time
            case events.StepStarted():
                node = self._node(event.node)
                node.index, node.title, node.line = event.index, event.title, ""
                node.step_began, node.step_expected = event.time, event.expected
            case events.StepFinished():
                node = self._node(event.node)
                if event.index == node.steps:
                    node.title, node.line, node.step_expected, node.step_began = "sealing", "", None, event.time
            case events.Output() if event.node in self.nodes:
                if event.line.strip():
                    self._node(event.node).line = event.line
            case events.NodeSealed():
                node = self._node(event.node)
                node.phase, node.seconds, node.size, node.line = SEALED, event.seconds, event.size, ""
            case events.NodeFailed():
                node = self._node(event.node)
                node.phase = FAILED
                node.seconds = event.time - node.began if node.began else None
            case events.Bundling():
                bundle = self.bundles.setdefault(
                    (event.node, event.format), BundleState(event.node, event.format, began=event.time)
                )
                bundle.phase, bundle.fraction = event.phase, event.fraction
            case events.Bundled():
                bundle = self.bundles.setdefault((event.node, event.format), BundleState(event.node, event.format))
                bundle.seconds = event.seconds
            case events.BundleSkipped():
                self.bundles.pop((event.node, event.format), None)
            case events.BundleFailed():
                bundle = self.bundles.setdefault((event.node, event.format), BundleState(event.node, event.format))
                bundle.failed = bundle.seconds is None

    def remaining(self, now: float) -> float | None:
        """The expected seconds of all that is left, as if done one after the other; None when history is missing."""
        total = 0.0
        for node in self.nodes.values():
            if node.phase in (WAITING, BLOCKED, RUNNING):
                if node.expected is None:
                    return None
                total += max(node.expected - (now - node.began if node.phase == RUNNING else 0), 0)
        return total

    def _node(self, name: str) -> NodeState:
        return self.nodes.setdefault(name, NodeState(name))


_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|\][^\x07\x1b]*(\x07|\x1b\\))")


def printable(line: str) -> str:
    """What may go to a terminal of *line*: what follows the last carriage return, without escapes and controls."""
    text = _ESCAPES.sub("", line).rstrip("\r").rpartition("\r")[2]
    return "".join(c if c.isprintable() else " " for c in text).rstrip()
