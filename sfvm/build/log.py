"""Where a node's output goes: its log file in the repository, the listener, and a short memory for errors."""

from __future__ import annotations

import collections
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from sfvm.events import Listener, Output

TAIL = 20


class NodeLog:
    """The log of one node being built; lines arrive from the appliance's thread."""

    def __init__(self, node: str, path: Path, listener: Listener) -> None:
        self.node = node
        self.listener = listener
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", errors="replace")
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._file.close()

    def line(self, text: str) -> None:
        """One line of output. What comes after the end, as the last lines of a killed VM may, is lost."""
        self.tail.append(text)
        with self._lock:
            if self._file.closed:
                return
            self._file.write(text + "\n")
        self.listener(Output(self.node, text))

    def heading(self, text: str) -> None:
        """A line of sfvm's own, only in the file: which step begins, when."""
        self.tail.clear()
        self._file.write(f"== {time.strftime('%H:%M:%S')} {text}\n")
        self._file.flush()
