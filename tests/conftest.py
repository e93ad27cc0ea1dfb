"""What tests of several modules share: settings in a temporary directory, and the appliance, built once."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
from hypothesis import settings as hypothesis_settings

from sfvm.appliance.image import Image, ensure
from sfvm.config import Settings
from sfvm.events import ignore
from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers.tools import tool

# A process of pytest-xdist ignores Ctrl-C; what our tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis_settings.register_profile("sfvm", deadline=None)  # a slow machine is no failure
hypothesis_settings.load_profile("sfvm")

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


@pytest.fixture(scope="session")
def seed(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the node busybox, built once for all projects."""
    home = tmp_path_factory.mktemp("seed")
    with project_of(home) as made:
        made.sfvm("build", "busybox")
    return home / "repository"


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RSA keys and certificates of the user and of the cloud, and of somebody else."""
    directory = tmp_path_factory.mktemp("keys")

    def openssl(*words: str | Path) -> None:
        subprocess.run([tool("openssl"), *map(str, words)], check=True, capture_output=True)

    for name in ("user", "cloud", "other"):
        files = ("-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem")
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}", *files)
    openssl("rsa", "-aes128", "-passout", "pass:x", "-in", directory / "user.key", "-out", directory / "locked")
    return directory


@pytest.fixture
def project(seed: Path, tmp_path: Path) -> Iterator[Project]:
    """A user's directory with the specs of ``tests/guests/specs``, busybox built; it must leave nothing behind."""
    with project_of(tmp_path / "home", seed) as made:
        yield made
