"""A small tree of specs, and ways to run the command line on it: in this process, or as users do."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner, Result

from sfvm import qcow2, tree
from sfvm.cli.commands import cli
from sfvm.downloads.fetched import Fetched
from sfvm.repository import Manifest, Repository, StepRecord
from sfvm.spec.library import Library

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

    def put(
        self,
        name: str,
        fetched: Mapping[str, Sequence[Fetched]] = MappingProxyType({}),
        pins: Mapping[str, tree.Pin] = MappingProxyType({}),
    ) -> None:
        """Put the node *name*, as its spec and *pins* are now, into the repository, with its ancestors: as a build
        would that has *fetched* this for each."""
        repository = Repository(self.home / "repository")
        for node in tree.resolve(Library([self.specs]), [name], {}, pins):
            if repository.built(node.key):
                continue
            with repository.lock(node.key, lambda holder: None):
                work = repository.work(node.key, node.name)
                sealed = work.directory / "sealed.qcow2"
                sealed.parent.mkdir(parents=True, exist_ok=True)
                if node.parent:
                    overlay = repository.overlay(node.parent.key)
                    qcow2.create(sealed, backing=overlay)
                    qcow2.rebase(sealed, overlay, name=overlay.name)
                else:
                    qcow2.create(sealed, size=64 << 20)
                manifest = Manifest(
                    key=node.key,
                    name=node.name,
                    parent=node.parent.key if node.parent else None,
                    parent_name=node.parent.name if node.parent else None,
                    inputs=node.inputs,
                    spec="<filesystem/>",
                    steps=tuple(StepRecord(step.title, step.key, 1.5) for step in node.steps),
                    digest=qcow2.digest(sealed),
                    size=sealed.stat().st_size,
                    disk=64 << 20,
                    filesystem="ext4",
                    facts={"architecture": "x86_64", "distribution": "debian", "release": "bookworm"},
                    packages=(("nginx", "1.2", "amd64"),),
                    created=time.time(),
                    seconds=12.5,
                    provenance={"sfvm": "0"},
                    depth=node.depth,
                    fetched=tuple(fetched.get(node.name, ())),
                )
                repository.publish(node.key, sealed, manifest)
                repository.point(node.name, node.key)
                work.discard()
                log = repository.log_path(node.key)
                log.parent.mkdir(parents=True, exist_ok=True)
                log.write_text(f"built {node.name}\n")

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


@pytest.fixture
def fail(world: World) -> Callable[..., Path]:
    """A build of a node with these arguments has failed, so many seconds ago: the overlay that is kept."""

    def fail(name: str, ago: float, facts: Mapping[str, str], **arguments: str) -> Path:
        repository = Repository(world.home / "repository")
        node = tree.resolve(Library([world.specs]), [name], arguments)[-1]
        told = "".join(f", {param}={value}" for param, value in arguments.items())
        with repository.lock(node.key, lambda holder: None):
            work = repository.work(node.key, name)
            work.begin(node.base_key, None, None, 64 << 20)
            overlay = work.next_overlay()
            qcow2.create(overlay, size=64 << 20)
            work.fail(overlay, "step 1 failed", facts)
        log = repository.log_path(node.key)
        log.write_text(f"{name} failed{told}\n")
        for path in (log, work.directory / "journal"):
            os.utime(path, (time.time() - ago, time.time() - ago))
        return overlay

    return fail
