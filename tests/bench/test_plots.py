"""The plots: well-formed, and as long as what they show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lxml import etree

from tests.bench import plots
from tests.bench.measure import Result

SVG = "{http://www.w3.org/2000/svg}"
ROWS = [
    Result("a <fast> one / theirs", 1.0, 10.0, 0.2),
    Result("a slow one / theirs", 30.0, 10.0, 1.5),
    Result("seconds only", 3.0, None, 5.0),
    Result("reported", 3.0, 2.0, None),
]


def bars(text: str) -> list[tuple[str, float]]:
    """Colour and width of what is drawn, the ground left out."""
    root = etree.fromstring(text.encode())
    return [(r.get("fill", ""), float(r.get("width", ""))) for r in root.iter(f"{SVG}rect")][1:]


def test_ratios_are_drawn_against_their_targets() -> None:
    text = plots.ratios(ROWS, "a machine & more")
    (good, fast), (bad, slow) = bars(text)
    assert (good, bad) == (plots.GOOD, plots.BAD)
    assert slow / fast == pytest.approx(2.0 / 0.5, rel=0.01)
    assert "0.10 of 0.2" in text
    assert "reported" not in text


def test_phases_are_as_wide_as_they_are_long() -> None:
    phases = {"download": 30.0, "install": 60.0, "tiny": 0.5, "other": 9.5}
    text = plots.stacked("x", {"cold": phases, "warm": {"install": 50.0}})
    drawn = [(color, width) for color, width in bars(text) if width != 12.0]  # 12: the legend's
    assert [width / drawn[0][1] for _, width in drawn] == pytest.approx([1, 2, 1 / 3, 5 / 3, 0], abs=0.01)
    assert drawn[1][0] == drawn[3][0]
    assert "all else: cold 10.0 s" in text


def test_plots_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "DIRECTORY", tmp_path / "plots")
    (tmp_path / "cold.json").write_text(json.dumps({"otherData": {"phases": {"appliance": 2.0, "other": 0.1}}}))
    plots.draw(ROWS, "a machine", tmp_path)
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["debian.svg", "ratios.svg"]


def test_a_result_knows_whether_its_target_is_met() -> None:
    assert [row.met for row in ROWS] == [True, False, True, None]
    assert [row.wanted for row in ROWS] == ["<= 0.2", "<= 1.5", "<= 5 s", "reported"]
