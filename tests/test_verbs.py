"""Finding verbs: ours by their files, those of other packages by their entry points."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

VERB = """
class Shout:
    element = "shout"
    schema = '<element name="shout"/>'
"""
ASK = """
import sys
sys.path[:0] = sys.argv[1:]
from sfvm.verbs import registry
print(*("shout" in registry(kind) for kind in ("steps", "bases", "bundle")), "run" in registry("steps"))
"""


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A directory of installed packages, one of which registers a step."""
    packages = tmp_path / "site-packages"
    described = packages / "shouting-1.0.dist-info"
    described.mkdir(parents=True)
    (packages / "shouting.py").write_text(VERB)
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (described / "entry_points.txt").write_text("[sfvm.steps]\nshout = shouting:Shout\n")
    (packages / "silent-1.0.dist-info").mkdir()
    return packages


def found(*directories: Path) -> list[str]:
    words = [sys.executable, "-c", ASK, *map(str, directories)]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


def test_verbs_of_other_packages_are_found(other: Path, tmp_path: Path) -> None:
    assert found(tmp_path / "nowhere", other) == ["True", "False", "False", "True"]


def test_there_need_be_none(tmp_path: Path) -> None:
    assert found(tmp_path) == ["False", "False", "False", "True"]
