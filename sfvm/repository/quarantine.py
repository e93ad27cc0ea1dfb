"""Damaged nodes are set aside, not deleted: a build makes them anew, and gc frees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfvm import safejson
from sfvm.repository.files import sync

if TYPE_CHECKING:
    from sfvm.repository.store import Repository


def set_aside(repository: Repository, key: str) -> None:
    """Move the node's manifest, then its overlay, away; its name stays."""
    for path in (repository.nodes / f"{key}.json", repository.overlay(key)):
        move(path, repository.root / "quarantine" / path.name)
    sync(repository.nodes)


def set_aside_strangers(repository: Repository, key: str, origin: str) -> None:
    """Set aside the descendants of *key* that were made on another build of it than *origin*: their bytes do not fit
    what is about to be published."""
    parents = [(key, origin)]
    while parents:
        parent, wanted = parents.pop()
        for path in sorted(repository.nodes.glob("*.json")):
            content = path.read_bytes()
            if parent.encode() not in content or path.stem == parent:
                continue
            try:
                found = safejson.loads(content)
                child = found["parent"] == parent and found["parent_origin"] != wanted
            except (ValueError, KeyError, TypeError):
                continue  # damaged by itself: verify tells
            if child:
                set_aside(repository, path.stem)
                parents.append((path.stem, ""))


def move(path: Path, target: Path) -> None:
    """Move *path*, if it is there, over *target*."""
    target.parent.mkdir(exist_ok=True)
    if path.exists():
        path.replace(target)
