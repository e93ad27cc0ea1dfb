"""A small tree of specs, and ways to run the command line on it: in this process, or as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sfvm.cli.commands import cli

SPECS = {
    "root": """<filesystem xmlns="urn:sfvm:1" name="root">
  <summary>A root</summary>
  <disk size="64M" format="ext4"/>
  <base><empty/></base>
</filesystem>
""",
    "web": """<filesystem xmlns="urn:sfvm:1" name="web" parent="root">
  <summary>A child</summary>
  <param name="site" default="example" pattern="[a-z.]+"/>
  <steps>
    <file path="/etc/motd">Welcome to ${site}
</file>
  </steps>
</filesystem>
""",
    "leaf": """<filesystem xmlns="urn:sfvm:1" name="leaf" parent="web">
  <steps><directory path="/srv"/></steps>
</filesystem>
""",
}


@dataclass(frozen=True)
class World:
    """A home of its own, with *specs*; nothing of the user's is read or written."""

    home: Path
    specs: Path
    environment: dict[str, str]

    def invoke(self, *arguments: str) -> Result:
        """Run in this process; what main() would turn into a message is ``result.exception``."""
        return CliRunner(env=self.environment).invoke(cli, arguments)

    def run(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run as users do."""
        return subprocess.run(
            [sys.executable, "-m", "sfvm.cli", *arguments],
            env={**self.environment, **(environment or {})},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def python(self, script: str) -> subprocess.Popen[str]:
        """A process that runs *script*."""
        return subprocess.Popen(
            [sys.executable, "-c", script],
            env=self.environment,
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def write(self, name: str, text: str) -> Path:
        path = self.specs / f"{name}.xml"
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SFVM_")},
        "HOME": str(tmp_path),
        "SFVM_HOME": str(tmp_path / "repository"),
        **{f"XDG_{kind}_HOME": str(tmp_path / kind.lower()) for kind in ("CONFIG", "CACHE", "DATA", "STATE")},
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    specs = tmp_path / "specs"
    specs.mkdir()
    made = World(tmp_path, specs, environment)
    for name, text in SPECS.items():
        made.write(name, text)
    return made


Run = Callable[..., subprocess.CompletedProcess[str]]
