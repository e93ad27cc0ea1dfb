"""Where one bundle is made, and the protocol of the verbs that make its parts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sfvm import qcow2
from sfvm.bundle.compose import Disk
from sfvm.bundle.hashing import HashingFile, digests
from sfvm.cancellation import NEVER, Cancellation
from sfvm.errors import BundleError, Place
from sfvm.verbs import Verb

RESERVED = ("manifest.json", "SHA256SUMS")


@dataclass(frozen=True)
class Stage:
    """What the verbs of a format work with: the bundle's *directory*, and what was made of the node for it: the *disk*
    (for a format with a layout), the uncompressed tar *archive* (for one without). Both are shared
    between formats: read them, or :meth:`keep` them. *progress* gets 0 to 1, and raises when the bundle is given up,
    which *stop* says too. *facts* is what templates may say: the bundle's manifest without its artifacts. *made* are
    the artifacts so far, *known* the digests of some of them by (name, algorithm)."""

    directory: Path
    disk: Disk | None
    archive: Path | None
    progress: Callable[[float], None]
    facts: Mapping[str, Any] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    stop: Cancellation = NEVER

    def new(self, name: str, place: Place) -> Path:
        """The path of the artifact *name*.

        :raises BundleError: it would lie outside the bundle, or exists already
        """
        path = self.directory / name
        if Path(name).name != name or name in RESERVED or path.exists():
            raise BundleError(
                f"{name!r} cannot be the name of an artifact",
                place=place,
                hint="a file name of its own, without directories",
            )
        self.made.append(name)
        return path

    @contextmanager
    def writing(self, target: Path) -> Iterator[HashingFile]:
        """Write the artifact *target*; its digest is known then without reading it."""
        with target.open("xb") as file:
            hashing = HashingFile(file)
            yield hashing
        self.known[target.name, "sha256"] = hashing.sha256()

    def digest(self, name: str, algorithm: str = "sha256") -> str:
        """The digest of an artifact, in hexadecimal. It is read when it must be, and then for the SHA-256, too, which
        every bundle tells of every artifact."""
        if (name, algorithm) not in self.known:
            wanted = {kind for kind in (algorithm, "sha256") if (name, kind) not in self.known}
            for kind, digest in digests(self.directory / name, wanted, self.progress).items():
                self.known[name, kind] = digest
        return self.known[name, algorithm]

    def keep(self, source: Path, target: Path) -> None:
        """Make the shared file *source* the artifact *target*, without a copy where no other bundle has done so."""
        os.link(source, target)
        if target.stat().st_nlink > 2:  # two bundles must not be one file
            target.unlink()
            qcow2.qemu_img(
                "convert", "-f", "raw", "-O", "raw", source, target, progress=self.progress, stop=self.stop
            )  # fmt: skip


@runtime_checkable
class Output(Verb, Protocol):
    """A bundle verb that makes one artifact."""

    def make(self, stage: Stage) -> None:
        """Make it in the stage's directory."""
