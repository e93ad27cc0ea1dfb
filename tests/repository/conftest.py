"""Small nodes in a repository, made with qemu-img and qemu-io instead of an appliance."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sfvm import qcow2
from sfvm.repository import Manifest, Repository, StepRecord
from sfvm.tree import node as tree

DISK = 64 << 20
Maker = Callable[..., str]


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, *commands: str) -> None:
    arguments = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", "-d", "unmap", *arguments, str(path)], check=True, capture_output=True)


def inputs_of(name: str, parent: str | None, parent_name: str | None) -> dict[str, Any]:
    """What a node has that does something of its own: its name tells what."""
    root = parent is None
    return {
        "version": tree.VERSION,
        "parent": None if root else {"name": parent_name, "key": parent},
        "base": {"element": "empty", "version": 1, "inputs": {}, "architecture": "x86_64"} if root else None,
        "disk": {"size": DISK, "format": "ext4"} if root else None,
        "arguments": {},
        "steps": [{"element": "run", "version": 1, "inputs": {"script": name}, "title": name, "place": "x:1:1"}],
    }


def key_of(inputs: Mapping[str, Any]) -> str:
    """The key of a node with a single step."""
    (step,) = inputs["steps"]
    parent = inputs["parent"] and inputs["parent"]["key"]
    meaning = {name: step[name] for name in ("element", "version", "inputs")}
    pinned = inputs.get("pinned", {})
    return tree.digest(["step", tree.start(parent, inputs["base"], inputs["disk"], pinned), meaning])


def manifest_of(key: str, name: str, sealed: Path, parent: Manifest | None) -> Manifest:
    return Manifest(
        key=key,
        name=name,
        parent=parent.key if parent else None,
        parent_name=parent.name if parent else None,
        inputs=inputs_of(name, parent.key if parent else None, parent.name if parent else None),
        spec="<filesystem/>",
        steps=(StepRecord("run true", key, 0.5),),
        digest=qcow2.digest(sealed),
        size=sealed.stat().st_size,
        disk=DISK,
        filesystem="ext4",
        facts={"architecture": "x86_64"},
        packages=(("hello", "1.0", "amd64"),),
        created=time.time(),
        seconds=1.5,
        provenance={"sfvm": "test"},
        depth=parent.depth + 1 if parent else 0,
    )


def add(
    repository: Repository,
    name: str,
    parent: str | None = None,
    *,
    key: str | None = None,
    commands: Sequence[str] = ("write -P 1 0 128k",),
    pointed: bool = True,
    threshold: int = 64,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    tip: Path | None = None,
) -> str:
    """Publish the node *name* (of what *tip* holds, or of what *commands* write) and return its key."""
    key = key or key_of(inputs_of(name, parent, repository.manifest(parent).name if parent else None))
    with repository.lock(key, lambda holder: None):
        work = repository.work(key, name)
        backing = repository.backing(parent, threshold) if parent else None
        overlay = tip
        if overlay is None:
            work.begin(parent or digest_of("base"), backing, parent, DISK)
            overlay = work.next_overlay()
            qcow2.create(overlay, size=None if backing else DISK, backing=backing)
            write(overlay, *commands)
        sealed = work.directory / "sealed.qcow2"
        qcow2.seal(overlay, backing, backing, sealed)
        manifest = manifest_of(key, name, sealed, repository.manifest(parent) if parent else None)
        repository.publish(key, sealed, change(manifest))
        if tip is None:
            work.discard()
        if pointed:
            repository.point(name, key)
    return key


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture(name="add")
def add_() -> Maker:
    return add


@pytest.fixture(name="write")
def write_() -> Callable[..., None]:
    return write


@pytest.fixture
def same() -> Callable[[Path, Path], bool]:
    """Whether two images have the same content."""

    def compare(one: Path, other: Path) -> bool:
        command = ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", str(one), str(other)]
        found = subprocess.run(command, capture_output=True, text=True)
        assert found.returncode in (0, 1), found.stderr
        return found.returncode == 0

    return compare


@pytest.fixture
def set_back() -> Callable[[Path, float], None]:
    """Make a path look older by so many seconds."""

    def change(path: Path, seconds: float) -> None:
        then = time.time() - seconds
        os.utime(path, (then, then))

    return change
