"""Bases, parsed and prepared without an appliance."""

from pathlib import Path

import pytest

from tests.verbs import Directory, Maker


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.fixture
def guest(tmp_path: Path) -> Directory:
    root = tmp_path / "guest"
    root.mkdir()
    return Directory(root)
