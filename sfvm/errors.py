"""The one exception family of sfvm.

Every error says what failed, where, why, and what to do next. The command line prints :meth:`SfvmError.render` and
exits with :attr:`SfvmError.exit_status`; nothing else of an error reaches a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

EXCERPT = 160
"""So many characters of a line are shown where something is wrong with it."""


@dataclass(frozen=True, order=True)
class Place:
    """A position in a spec: file, line and column (both from 1)."""

    path: Path
    line: int
    column: int = 1

    def __str__(self) -> str:
        return f"{self.path}:{self.line}:{self.column}"

    def excerpt(self) -> tuple[str, ...]:
        """The line itself, or what of a long one is near, and a caret below the column; nothing when the file cannot be
        read any more."""
        try:
            line = self.path.read_text(encoding="utf-8", errors="replace").split("\n")[self.line - 1]
        except (OSError, IndexError):
            return ()
        start = max(self.column - EXCERPT // 2, 0)
        before, after = line[start : self.column - 1], line[self.column - 1 : start + EXCERPT]
        if start:
            before = "…" + before[1:]
        if start + EXCERPT < len(line):
            after = after[:-1] + "…"
        margin = "".join("\t" if c == "\t" else " " for c in before)
        return (f"    {before}{after}", f"    {margin}^")


class SfvmError(Exception):
    """Something failed that the user can understand and act on.

    :param what: what failed, one sentence without a full stop
    :param place: where in a spec
    :param node: the node concerned
    :param why: the reason, where the first sentence does not tell
    :param hint: what to do next
    :param detail: lines to show as they are (last output, last console lines)
    """

    exit_status = 1

    def __init__(
        self,
        what: str,
        *,
        place: Place | None = None,
        node: str | None = None,
        why: str | None = None,
        hint: str | None = None,
        detail: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.what = what
        self.place = place
        self.node = node
        self.why = why
        self.hint = hint
        self.detail = tuple(detail)

    def __str__(self) -> str:
        return self.render()

    def render(self) -> str:
        """The whole message, several lines, without colours and without a trailing newline."""
        subject = f"node {self.node}: {self.what}" if self.node else self.what
        lines = [f"{self.place}: {subject}" if self.place else subject]
        if self.place:
            lines += self.place.excerpt()
        if self.why:
            lines.append(f"  why: {self.why}")
        if self.detail:
            lines += ["  last output:", *(f"  | {line}" for line in self.detail)]
        if self.hint:
            lines.append(f"  try: {self.hint}")
        return "\n".join(lines)


class UsageError(SfvmError):
    """The command line asks for something that does not exist or does not fit together."""

    exit_status = 2


class SpecError(SfvmError):
    """A spec is malformed, refers to something missing, or asks for something it may not have."""


class StepError(SfvmError):
    """A step of a node failed."""


class ApplianceError(SfvmError):
    """The helper VM cannot be built or started, or died."""


class RepositoryError(SfvmError):
    """The repository is damaged, full, or of another version."""


class BundleError(SfvmError):
    """A node cannot be bundled with a format."""


class PublishError(SfvmError):
    """A bundle cannot be put on a platform."""


class Interrupted(SfvmError):
    """The user pressed Ctrl-C or the process was asked to end (exit status 128 + signal number)."""

    def __init__(self, signal_number: int) -> None:
        super().__init__("interrupted", hint="run the same command again: it resumes at the last checkpoint")
        self.exit_status = 128 + signal_number


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """A hint for a misspelt *word*: the closest of *known*, or all of them when they are few, or None."""
    import difflib  # for the few who misspell

    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if 0 < len(names) <= 12:
        return "known: " + ", ".join(names)
    return None
