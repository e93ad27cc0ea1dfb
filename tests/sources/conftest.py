"""Verbs whose content comes from somewhere."""

from pathlib import Path

import pytest

from tests.verbs import Maker


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)
