"""One build of a Debian for all modules; its repository is thrown away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.project import Project, Running
from tests.guests.project import project as project_of

SPECS = Path(__file__).parent / "specs"
BUILD_SECONDS = 2400.0
BOOT_SECONDS = 900.0
"""What is stuck ends the test; without KVM a good build takes about ten minutes, a good boot about one."""


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Our Debian, and ``marked``, a node on it, with its qcow2 in ``out``."""
    with project_of(tmp_path_factory.mktemp("debian")) as made:
        out = str(made.home / "out")
        made.sfvm("build", "marked", "--specs", str(SPECS), "--bundle", "qcow2", "--output", out, timeout=BUILD_SECONDS)
        yield made


@pytest.fixture(scope="session")
def live_node(debian: Project) -> Iterator[Running]:
    """The build of ``debian-live``, begun: five minutes for one CPU, while machines boot on the other."""
    running = debian.start("build", "debian-live", "--param", "vagrant=yes", "--quiet")
    yield running
    if running.process.poll() is None:
        running.interrupt()
        running.end(BOOT_SECONDS)
