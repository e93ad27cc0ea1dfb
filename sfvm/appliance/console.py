"""The last lines of the appliance's console: what is shown when it dies."""

from __future__ import annotations

import collections

KEPT = 100
SHOWN = 15
DEATH = ("Kernel panic", "Out of memory", "BUG:", "Oops:")
"""What a dying kernel says first; register dumps follow and would push it out of what is shown."""


class Console:
    """Lines out of pieces that may end anywhere."""

    def __init__(self) -> None:
        self.lines: collections.deque[str] = collections.deque(maxlen=KEPT)
        self._rest = ""

    def feed(self, text: str) -> None:
        """Take what the console wrote next."""
        *lines, self._rest = (self._rest + text.replace("\r", "")).split("\n")
        self.lines.extend(line.rstrip() for line in lines if line.strip())
        self._rest = self._rest[-4096:]

    def last_words(self) -> tuple[str, ...]:
        """The kernel's death and what follows it, or else simply the last lines."""
        lines = [*self.lines, self._rest] if self._rest.strip() else list(self.lines)
        for number, line in enumerate(lines):
            if any(sign in line for sign in DEATH):
                return tuple(lines[number : number + SHOWN])
        return tuple(lines[-SHOWN:])
