"""Text for people: sizes, times, colours, columns; JSON for programs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import IO, Any

import click

from sfvm.errors import Interrupted, SfvmError

_COLOR = True


def disable_color() -> None:
    """No colours from here on (``--no-color``)."""
    global _COLOR
    _COLOR = False


def colored(stream: IO[Any]) -> bool:
    """Whether colours may be written to *stream*: a terminal, ``NO_COLOR`` unset (https://no-color.org)."""
    return _COLOR and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def style(text: str, *, stream: IO[Any] | None = None, **attributes: Any) -> str:
    """*text* in click's style *attributes* (``fg``, ``bold``, ``dim``), where *stream* (stdout) may have colours."""
    return click.style(text, **attributes) if colored(stream or sys.stdout) else text


def size(count: float | None) -> str:
    """Bytes as people read them: ``1.3 GiB``; a dash for None."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds as people read them: ``0.4 s``, ``58 s``, ``3 min 20 s``, ``1 h 04 min``; a dash for None."""
    if seconds is None:
        return "-"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def write_json(value: Any) -> None:
    """*value* as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, default=str))


def columns(rows: Iterable[Sequence[str]], *, gap: int = 2) -> list[str]:
    """*rows* as aligned lines; styled cells count as wide as they look, the last column may be of any width."""
    table = [tuple(row) for row in rows]
    if not table:
        return []
    widths = [max(len(click.unstyle(row[index])) for row in table) for index in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)]
        lines.append((" " * gap).join([*cells[:-1], row[-1]]).rstrip())
    return lines


def plain(text: str, keep: str = "") -> str:
    """*text* of a guest, or of anybody else, in which nothing commands a terminal: control characters, and bytes that
    are no UTF-8, as Python's escapes; but for those to *keep*."""
    return "".join(
        c if c.isprintable() or c in keep else f"\\x{ord(c) - 0xDC00:02x}" if 0xDC80 <= ord(c) <= 0xDCFF
        else c.encode("unicode_escape").decode("ascii")
        for c in text
    )  # fmt: skip


def plural(count: int, noun: str) -> str:
    """``1 node``, ``2 nodes``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def say(error: SfvmError) -> None:
    """Write *error* to stderr, the way every error looks."""
    label = "" if isinstance(error, Interrupted) else style("error:", stream=sys.stderr, fg="red", bold=True) + " "
    print(label + plain(error.render(), keep="\n\t"), file=sys.stderr)
