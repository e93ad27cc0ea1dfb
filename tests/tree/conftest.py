"""Specs written by tests."""

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a spec below ``specs/``: the first element of the text gets the namespace."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / "specs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        for root in ("filesystem", "fragment", "format"):
            text = text.replace(f"<{root}", f'<{root} xmlns="urn:sfvm:1"', 1)
        path.write_text(text, encoding="utf-8")
        return path

    return write
