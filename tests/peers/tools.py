"""Programs of other people that judge what sfvm makes; the test session installs ``packages``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

PLACES = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def tool(name: str) -> str:
    """The path of the program *name*; where it cannot have been installed the test is skipped."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        if not Path("/etc/debian_version").exists():
            pytest.skip(f"{name} is not installed, and is known by its Debian package only")
        pytest.fail(f"{name} is not installed: tests/peers/packages names its package")
    return found
