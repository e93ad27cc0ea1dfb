"""A disk that is put together where it is wanted, by QEMU's tools."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfvm import qcow2
from sfvm.cancellation import NEVER, Cancellation

Progress = Callable[[float], None]
ANY_ORDER = ("qcow2",)
"""Formats of QEMU's into which a piece can be written at its place, after others."""


@dataclass(frozen=True)
class Piece:
    """The content of the qcow2 file *source*, *size* bytes, which belongs at *offset* of a disk."""

    source: Path
    offset: int
    size: int


@dataclass
class Disk:
    """A disk that is not yet one file: the raw, sparse *frame* has its size and everything but the *pieces*. Nobody
    copies them before somebody wants them, and then where they are wanted; several threads may."""

    frame: Path
    pieces: tuple[Piece, ...] = ()
    _alone: threading.Lock = field(default_factory=threading.Lock)

    @property
    def size(self) -> int:
        return self.frame.stat().st_size

    def raw(self, progress: Progress, stop: Cancellation = NEVER) -> Path:
        """The whole disk as a raw file, which is the same one for all: composed when it is first asked for.

        :raises Cancelled: *stop* asks for it
        """
        with self._alone:
            for piece in self.pieces:
                _fill(self.frame, "raw", piece, progress, stop)
            self.pieces = ()
            return self.frame

    def convert(self, target: Path, to: str, *options: str, progress: Progress, stop: Cancellation = NEVER) -> None:
        """Write *target* in the format *to* with *options* of ``qemu-img convert``.

        :raises Cancelled: *stop* asks for it
        """
        # Compressed clusters are written once, and whole; and in which order others lie in the file must not depend on
        # whether somebody has wanted the raw disk before.
        if to not in ANY_ORDER or "-c" in options or _ordered():
            self.raw(progress, stop)
        with self._alone:
            pieces = self.pieces
            if pieces:
                _convert("-f", "raw", "-O", to, *options, self.frame, target, stop=stop)
        if not pieces:
            _convert("-f", "raw", "-O", to, *options, self.frame, target, progress=progress, stop=stop)
        for piece in pieces:
            _fill(target, to, piece, progress, stop)


def _fill(target: Path, kind: str, piece: Piece, progress: Progress, stop: Cancellation) -> None:
    """Copy *piece* to its place in *target*, a file of the format *kind* that has nothing there."""
    file: dict[str, Any] = {"driver": "file", "filename": str(target.absolute())}
    if kind != "raw":
        file = {"driver": kind, "file": file}
    window = {"driver": "raw", "offset": piece.offset, "size": piece.size, "file": file}
    words = ("-n", "--target-is-zero", "-f", "qcow2", "-O", "raw", piece.source, f"json:{json.dumps(window)}")
    _convert(*words, progress=progress, stop=stop)


def _convert(*words: str | Path, progress: Progress | None = None, stop: Cancellation) -> None:
    threads = ("-m", "1") if _ordered() else ("-W", "-m", str(min(os.cpu_count() or 1, 16)))
    qcow2.qemu_img("convert", *threads, *words, progress=progress, stop=stop)


def _ordered() -> bool:
    """Who sets a time wants the same bytes every time: then clusters are written in order."""
    return "SOURCE_DATE_EPOCH" in os.environ
