"""Manifests of nodes that were never built, and specs for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sfvm.downloads.fetched import Fetched
from sfvm.repository import Manifest
from sfvm.tree import Node

NONE = "0" * 64


def sha(number: int) -> str:
    return f"{number:064x}"


def fetched(url: str, number: int, size: int = 1) -> Fetched:
    return Fetched(f"http://mirror.test/{url}", sha(number), size, 0.5, False)


def manifest(
    node: Node | None = None, got: Sequence[Fetched] = (), packages: Sequence[tuple[str, str, str]] = ()
) -> Manifest:
    """The manifest of *node* after it has *got* this."""
    parent = node.parent if node else None
    return Manifest(
        key=node.key if node else NONE, name=node.name if node else "some",
        parent=parent.key if parent else None, parent_name=parent.name if parent else None,
        inputs=node.inputs if node else {}, spec="", steps=(), digest=NONE, size=0, disk=0, filesystem="ext4", facts={},
        packages=tuple(packages), created=time.time(), seconds=0.0, provenance={}, depth=node.depth if node else 0,
        fetched=tuple(got),
    )  # fmt: skip


Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the spec NAME; return its directory."""

    def write(name: str, text: str) -> Path:
        directory = tmp_path / "specs"
        directory.mkdir(exist_ok=True)
        text = text.replace("<filesystem", f'<filesystem xmlns="urn:sfvm:1" name="{name}"', 1)
        (directory / f"{name}.xml").write_text(text, encoding="utf-8")
        return directory

    return write


@pytest.fixture
def specs(write: Write) -> Path:
    """``leaf`` on ``middle`` on ``root``."""
    write("root", '<filesystem><param name="suite" default="one"/><base><empty/></base></filesystem>')
    write("middle", '<filesystem parent="root"><steps><packages install="a"/></steps></filesystem>')
    return write("leaf", '<filesystem parent="middle"><steps><packages install="b"/></steps></filesystem>')
