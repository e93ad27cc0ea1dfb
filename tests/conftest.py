"""What tests of several modules share: settings in a temporary directory, and the appliance, built once."""

import os
from pathlib import Path

import platformdirs
import pytest

from sfvm.appliance.image import Image, ensure
from sfvm.config import Settings
from sfvm.events import ignore

CACHE = platformdirs.user_cache_path("sfvm")
"""The user's own: an appliance that is there already need not be built again."""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A repository of the test's own; the connection is ``$SFVM_CONNECTION``, or chosen as sfvm would."""
    connection = os.environ.get("SFVM_CONNECTION", "auto")
    return Settings(repository=tmp_path / "repository", cache=CACHE, connection=connection, memory=768)


@pytest.fixture(scope="session")
def image() -> Image:
    """The appliance's image, built when it is not in the cache."""
    return ensure(CACHE, ignore)
