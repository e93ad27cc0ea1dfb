"""How things are measured, and what a measurement is."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sfvm import qcow2
from sfvm.config import Settings


@dataclass(frozen=True)
class Result:
    """One row: *ours* against *theirs*, in seconds unless *unit* says otherwise. *target* is the most that the ratio
    may be, or *ours* where there is nothing to compare with (None: reported only)."""

    name: str
    ours: float
    theirs: float | None
    target: float | None
    unit: str = "s"
    note: str = ""

    @property
    def ratio(self) -> float | None:
        return self.ours / self.theirs if self.theirs else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return (self.ours if self.ratio is None else self.ratio) <= self.target

    @property
    def wanted(self) -> str:
        """The target for people."""
        if self.target is None:
            return "reported"
        return f"<= {self.target:g}" + ("" if self.theirs else f" {self.unit}")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "target": self.wanted, "ratio": self.ratio, "met": self.met}

    def line(self) -> str:
        """The row of the table."""
        theirs = f"{self.theirs:8.2f}" if self.theirs is not None else " " * 8
        ratio = f"{self.ratio:6.2f}" if self.ratio is not None else " " * 6
        mark = {None: " ", True: "✓", False: "✗"}[self.met]
        return f"{self.name:58} {self.ours:8.2f} {theirs} {ratio}  {self.wanted:11} {mark} {self.note}".rstrip()


@dataclass(frozen=True)
class Bench:
    """What a subject works with: *home*, a directory of its own that is removed after, *shared*, one of all subjects,
    and *settings* (the connection is direct). *debian* is a repository that has the shipped Debian already."""

    home: Path
    shared: Path
    settings: Settings
    debian: Path | None = None

    @property
    def repository(self) -> Path:
        """The subject's own."""
        return self.home / "repository"

    @property
    def traces(self) -> Path:
        """Where profiles are left for the plots: ``NAME.json``."""
        return self.shared / "traces"

    def specs(self, **texts: str) -> Path:
        """A directory of specs with these names and contents."""
        directory = Path(tempfile.mkdtemp(prefix="specs-", dir=self.home))
        for name, text in texts.items():
            (directory / f"{name}.xml").write_text(text, encoding="utf-8")
        return directory

    def disk(self, name: str) -> Path:
        """An empty disk of 8 GiB."""
        path = self.home / name
        qcow2.create(path, size=8 << 30)
        return path


@dataclass(frozen=True)
class Run:
    """A command that has ended well: its *seconds*, and the *peak* of sfvm's own memory in MiB, children left out."""

    seconds: float
    peak: float


_WATCHED = """
import os, sys
from sfvm.cli import main
status = main()
with open("/proc/self/status") as told, open(os.environ["SFVM_BENCH_PEAK"], "w") as file:
    file.write(next(line.split()[1] for line in told if line.startswith("VmHWM")))
sys.exit(status)
"""


def sfvm(*arguments: str, repository: Path) -> Run:
    """Run sfvm, directly connected.

    :raises SystemExit: it failed; with what it said
    """
    with tempfile.NamedTemporaryFile("r") as peak:
        environment = {
            **os.environ,
            "SFVM_HOME": str(repository),
            "SFVM_CONNECTION": "direct",
            "SFVM_BENCH_PEAK": peak.name,
        }
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _WATCHED, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - begun
        if done.returncode:
            sys.exit(f"sfvm {' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
        return Run(seconds, int(peak.read()) / 1024)


def timed(action: Callable[[], object]) -> float:
    """The seconds that *action* takes."""
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def alternately(
    actions: Sequence[Callable[[], object]], times: int, before: Callable[[], object] = lambda: None
) -> list[float]:
    """The median seconds of each of *actions*; *before* each, something is done that does not count. They take turns in
    an order that changes, so that whatever else the machine does is fair."""
    seconds: list[list[float]] = [[] for _ in actions]
    for _ in range(times):
        for number in random.sample(range(len(actions)), len(actions)):
            before()
            seconds[number].append(timed(actions[number]))
    return [statistics.median(column) for column in seconds]


def command(words: Iterable[object], **environment: str) -> Callable[[], object]:
    """An action that runs a command, in silence."""
    chosen = [str(word) for word in words]
    return lambda: subprocess.run(chosen, env={**os.environ, **environment}, check=True, capture_output=True)
