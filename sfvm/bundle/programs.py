"""Programs of the host that single formats want."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

from sfvm.bundle.stage import Stage, Unfit
from sfvm.errors import BundleError, Place

PLACES = "/usr/sbin:/sbin"
"""Users' own ``$PATH`` often has no sbin."""
LOOK = 0.2
"""Seconds between two looks at how far a program is."""


def find(*names: str) -> str | None:
    """The path of the first program of *names* that there is."""
    places = f"{os.environ.get('PATH', os.defpath)}:{PLACES}"
    return next(filter(None, (shutil.which(name, path=places) for name in names)), None)


def program(name: str, package: str, place: Place) -> str:
    """The path of the program *name*.

    :raises Unfit: it is not installed; *package* is where Debian has it, *place* the verb's
    """
    found = find(name)
    if found is None:
        raise Unfit(
            f"{name}, which this format needs, is not installed",
            place=place,
            hint=f"install it (Debian: {package})",
        )
    return found


def run(
    words: Sequence[str | Path],
    stage: Stage,
    place: Place,
    source: Path | None = None,
    environment: Mapping[str, str] | None = None,
    failure: str | None = None,
    hint: str | None = None,
) -> None:
    """Run a program to its end, with the file *source* as its input; how far it has read that is the progress.

    :raises BundleError: it fails: *failure* says what that means, its last line is why, *hint* what to do
    """
    with (
        source.open("rb", buffering=0) if source else nullcontext() as file,
        tempfile.TemporaryFile() as messages,
    ):
        total = max(source.stat().st_size, 1) if source else 1
        # C: its messages are shown.
        process = subprocess.Popen(
            words, stdin=file or subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages, process_group=0,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
        )  # fmt: skip
        with stage.stop.running(process):
            while _lives(process):
                stage.progress(file.tell() / total if file else 0)
        messages.seek(0)
        lines = messages.read().decode(errors="replace").split("\n")
    if process.returncode:
        name = Path(words[0]).name
        why = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {process.returncode}")
        raise BundleError(failure or f"{name} failed", place=place, why=why, hint=hint)


def _lives(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(LOOK)
    except subprocess.TimeoutExpired:
        return True
    return False
