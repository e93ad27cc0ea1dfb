"""Where one bundle is made, and the protocol of the verbs that make its parts."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sfvm import qcow2
from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.hashing import HashingFile, digests
from sfvm.cancellation import NEVER, Cancellation
from sfvm.errors import BundleError, Place
from sfvm.verbs import Verb

NIL = uuid.UUID(int=0)
RESERVED = ("manifest.json", "SHA256SUMS")


class Unfit(BundleError):
    """A format that cannot be made here, though others can: the node lacks what the platform wants, the host a program,
    or the user has set what it does not take."""


class Machine(Protocol):
    """Runs a script in a helper VM."""

    def __call__(self, script: str, *drives: Path) -> str:
        """Run *script* with the raw files *drives* as ``$1``, ``$2``, …, and the node's files, prepared, at
        ``/sysroot`` (for a format without a layout); return what it prints."""


@dataclass(frozen=True)
class Stage:
    """What the verbs of a format work with: the bundle's *directory*, and what was made of the node for it: the *disk*
    (for a format with a layout), and where they are needed (:attr:`Output.needs`) the uncompressed tar *archive* (for
    one without), its newest kernel *vmlinuz* and *initrd*, and the tars of its *layers*, from the root of the tree on.
    All are shared between formats: read them, or :meth:`keep` them. *progress* gets 0 to 1, and raises when the bundle
    is given up, which *stop* says too. *facts* is what templates may say: the bundle's manifest without its artifacts.
    *identity* is the same for every bundle of the node: identifiers are made from it (:meth:`uuid`), and *epoch* is its
    time, in seconds. *made* are the artifacts so far, *known* the digests of some of them by (name, algorithm).
    *machine* runs a script in a helper VM; the node's filesystem could hold *capacity* bytes."""

    directory: Path
    disk: Disk | None
    archive: Path | None
    progress: Callable[[float], None]
    facts: Mapping[str, Any] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    stop: Cancellation = NEVER
    vmlinuz: Path | None = None
    initrd: Path | None = None
    layers: tuple[Path, ...] = ()
    identity: uuid.UUID = NIL
    epoch: int = 0
    machine: Machine | None = None
    capacity: int = 0

    def raw(self, place: Place) -> Path:
        """The disk as a raw, sparse file; it is shared: read it only.

        :raises BundleError: the format has no layout, so there is no disk; *place* is the verb's
        """
        if self.disk is None:
            raise BundleError("this verb needs a disk", place=place, hint="add a <layout> to the format")
        return self.disk.raw(self.progress, self.stop)

    def tree(self, place: Place) -> Path:
        """The node's files as an uncompressed tar (POSIX, numeric owners, ``./`` names); it is shared: read it only.

        :raises BundleError: the format has a layout, so there is a disk instead; *place* is the verb's
        """
        self.require_files(place)
        assert self.archive is not None  # the verb has said that it needs it
        return self.archive

    def require_files(self, place: Place) -> None:
        """:raises BundleError: the format has a layout, so there is a disk instead of files; *place* is the verb's"""
        if self.disk is not None:
            raise BundleError("this verb goes without a layout", place=place, hint="remove the <layout> of the format")

    def uuid(self, purpose: str) -> uuid.UUID:
        """An identifier for *purpose*: another for every purpose and node, the same for every bundle of it."""
        return uuid.uuid5(self.identity, purpose)

    def drop(self, name: str) -> None:
        """Remove the artifact *name*: something was made of it that takes its place."""
        (self.directory / name).unlink()
        self.made.remove(name)

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
        if not linked(source, target) or target.stat().st_nlink > 2:  # two bundles must not be one file
            target.unlink(missing_ok=True)
            qcow2.qemu_img(
                "convert", "-f", "raw", "-O", "raw", source, target, progress=self.progress, stop=self.stop
            )  # fmt: skip


def linked(source: Path, target: Path) -> bool:
    """Make *target* another name of *source*; False where that cannot be: exFAT and some shares have no such thing."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


@runtime_checkable
class Output(Verb, Protocol):
    """A bundle verb that makes artifacts. A class may say in ``needs`` what must be made of the node for it: some of
    ``kernel``, and, in a format without a layout, ``archive``, ``layers``."""

    def make(self, stage: Stage) -> None:
        """Make it in the stage's directory."""
