"""The pages of docs/ say what is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from sfvm import document
from sfvm.spec import parser
from tests.bench.__main__ import SUBJECTS

ROOT = Path(__file__).parents[1]


def rows(page: str, *head: str) -> Iterator[list[str]]:
    """The cells of the table with this *head*, row by row."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    for line in lines[lines.index(f"| {' | '.join(head)} |") + 2 :]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.split("|")[1:-1]]


def names(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def params(*head: str) -> dict[str, list[str]]:
    """Of each of what a table of specs.md names."""
    return {name: sorted(names(cells[1])) for cells in rows("specs.md", *head) for name in names(cells[0])}


def found(directory: str) -> dict[str, list[str]]:
    paths = (ROOT / directory).glob("*.xml")
    return {path.stem: sorted(param.name for param in parser.params(document.parse(path))) for path in paths}


def test_the_params_of_specs() -> None:
    assert params("spec", "params", "is") == found("specs")


def test_the_params_of_fragments() -> None:
    told = params("fragment", "params", "does")
    assert told == {name: params for name, params in found("specs/common").items() if name in told}


def test_the_subjects_of_the_bench() -> None:
    told = {
        name for row in rows("performance.md", "subject", "ours", "theirs", "target") for name in row[0].split(", ")
    }
    assert told == SUBJECTS.keys()
