"""The plots of docs/performance.md, as SVG written by hand: rectangles and words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from tests.bench.measure import Result

DIRECTORY = Path("docs/performance")
WIDTH, LABELS, ROW = 900, 400, 26
"""Pixels: the whole width, the part for names, the height of a row."""
GOOD, BAD, INK = "#3a8f5c", "#c0504d", "#444"
COLORS = ("#4878a8", "#e0913a", "#5a9e6f", "#b85450", "#8172b3", "#937860", "#c78ab8", "#7f7f7f", "#b5a642", "#5fb3c4")
SMALL = 0.02
"""Shares below this are drawn as one."""


def draw(results: Sequence[Result], machine: str, traces: Path) -> None:
    """Write the plots of what was measured into :data:`DIRECTORY`."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "ratios.svg").write_text(ratios(results, machine), encoding="utf-8")
    told = {path.stem: json.loads(path.read_text(encoding="utf-8"))["otherData"] for path in traces.glob("*.json")}
    if told:
        spent = {name: told[name]["phases"] for name in sorted(told)}
        (DIRECTORY / "debian.svg").write_text(stacked("Where the time of a Debian goes", spent), encoding="utf-8")


def ratios(results: Iterable[Result], machine: str) -> str:
    """Horizontal bars: how much of its target each ratio takes. The line is the target."""
    rows = [row for row in results if row.ratio is not None and row.target]
    largest = max([1.25, *(row.ratio / row.target for row in rows if row.ratio and row.target)])
    scale = (WIDTH - LABELS - 110) / largest
    parts = [_text(10, 18, "Ratios, against their targets (the line)", weight="bold"), _text(10, 36, machine, size=9)]
    for number, row in enumerate(rows):
        assert row.ratio is not None and row.target is not None
        top = 48 + number * ROW
        length = row.ratio / row.target * scale
        parts.append(_text(LABELS - 8, top + 15, row.name, anchor="end"))
        parts.append(_bar(LABELS, top + 3, length, GOOD if row.met else BAD))
        parts.append(_text(LABELS + max(length, scale) + 8, top + 15, f"{row.ratio:.2f} of {row.target:g}"))
    bottom = 48 + len(rows) * ROW
    parts.append(f'<path d="M{LABELS + scale:.1f} 44V{bottom}" stroke="{INK}" stroke-dasharray="4 3"/>')
    return _svg(parts, bottom + 10)


def stacked(title: str, bars: Mapping[str, Mapping[str, float]]) -> str:
    """One bar for each of *bars* (seconds of phases), cut into its phases; equal phases have equal colours."""
    totals = {name: sum(phases.values()) for name, phases in bars.items()}
    longest = max(totals.values())
    shown = {name: _large(phases) for name, phases in bars.items()}
    legend = list(dict.fromkeys(phase for phases in shown.values() for phase in phases))
    colors = {phase: COLORS[number % len(COLORS)] for number, phase in enumerate(legend)}
    scale = (WIDTH - 180) / longest if longest else 0.0
    parts = [_text(10, 18, title, weight="bold")]
    for number, (name, phases) in enumerate(shown.items()):
        top, left = 32 + number * ROW, 80.0
        parts.append(_text(72, top + 15, name, anchor="end"))
        for phase, seconds in phases.items():
            parts.append(_bar(left, top + 3, seconds * scale, colors[phase], f"{phase}: {seconds:.1f} s"))
            left += seconds * scale
        parts.append(_text(left + 8, top + 15, f"{totals[name]:.0f} s"))
    top = 32 + len(shown) * ROW + 12
    for number, phase in enumerate(legend):
        y = top + number * 20
        spent = ", ".join(f"{name} {phases[phase]:.1f} s" for name, phases in shown.items() if phase in phases)
        parts.append(f'<rect x="80" y="{y}" width="12" height="12" fill="{colors[phase]}"/>')
        parts.append(_text(100, y + 10, f"{phase}: {spent}"))
    return _svg(parts, top + len(legend) * 20 + 8)


def _large(phases: Mapping[str, float]) -> dict[str, float]:
    """The phases that can be seen, and the sum of the others as ``all else``."""
    least = sum(phases.values()) * SMALL
    large = {name: seconds for name, seconds in phases.items() if seconds >= least and name != "other"}
    return {**large, "all else": sum(phases.values()) - sum(large.values())}


def _bar(x: float, y: float, width: float, color: str, title: str = "") -> str:
    inside = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="18" fill="{color}">{inside}</rect>'


def _text(x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, weight: str = "normal") -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _svg(parts: Iterable[str], height: float) -> str:
    size = f'width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} {height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    ground = f'<rect width="{WIDTH}" height="{height:.0f}" fill="white"/>'
    return "\n".join([head, ground, *parts, "</svg>", ""])
