"""Where one bundle is made, and the protocol of the verbs that make its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from sfvm.errors import BundleError, Place
from sfvm.verbs import Verb


@dataclass(frozen=True)
class Stage:
    """What the verbs of a format work with: the bundle's *directory*, and what was made of the node for it: the
    composed raw *disk* (for a format with a layout), the uncompressed tar *archive* (for one without). Both are shared
    between formats: read them, or link to them. *progress* gets 0 to 1."""

    directory: Path
    disk: Path | None
    archive: Path | None
    progress: Callable[[float], None]

    def new(self, name: str, place: Place) -> Path:
        """The path of the artifact *name*.

        :raises BundleError: it would lie outside the bundle, or exists already
        """
        path = self.directory / name
        if Path(name).name != name or name in ("manifest.json", "SHA256SUMS") or path.exists():
            raise BundleError(
                f"{name!r} cannot be the name of an artifact",
                place=place,
                hint="a file name of its own, without directories",
            )
        return path


@runtime_checkable
class Output(Verb, Protocol):
    """A bundle verb that makes one artifact."""

    def make(self, stage: Stage) -> None:
        """Make it in the stage's directory."""
