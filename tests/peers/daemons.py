"""The daemons of a libvirt session that a test has for itself."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.guests.project import eventually, running


def end_daemons(home: Path) -> None:
    """End the daemons whose PID files are below *home*, and wait for that: what they write and remove as they end would
    be in the way of who removes *home*."""
    ending: list[int] = []
    files = [Path(directory, name) for directory, _, names in os.walk(home) for name in names if name.endswith(".pid")]
    for file in files:
        with contextlib.suppress(ProcessLookupError, ValueError, FileNotFoundError):  # it may end just then
            number = int(file.read_text(encoding="ascii"))
            os.kill(number, signal.SIGTERM)
            ending.append(number)
    eventually(lambda: not any(map(running, ending)))
    assert not any(map(running, ending)), f"of {ending} some go on"
