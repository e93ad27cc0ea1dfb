"""One build of a Debian for all modules, in whichever process they run; its repository is thrown away."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.guests.project import Project, shared
from tests.guests.project import project as project_of

SPECS = Path(__file__).parent / "specs"
BUILD_SECONDS = 2400.0
BOOT_SECONDS = 900.0
"""What is stuck ends the test; without KVM a good build takes about ten minutes, a good boot about one."""


def prompts(host: str, console: str) -> bool:
    """Whether *host* asks for a login. What others have to say may come between the words, which are written one by
    one."""
    return re.search(rf"^{host}\b.*?login:", console, re.MULTILINE | re.DOTALL) is not None


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with our Debian, and ``marked``, a node on it. Whoever comes first builds it; the others wait."""
    home = shared(tmp_path_factory.getbasetemp() / "any") / "debian"
    with FileLock(f"{home}.lock"):
        if not (home / "built").exists():
            shutil.rmtree(home, ignore_errors=True)  # somebody else has failed
            with project_of(home) as made:
                made.sfvm("build", "marked", "--specs", str(SPECS), timeout=BUILD_SECONDS)
            (home / "built").touch()
    return home / "repository"


@pytest.fixture(scope="session")
def debian(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """This process's own copy."""
    with project_of(tmp_path_factory.mktemp("debian"), built) as made:
        yield made
