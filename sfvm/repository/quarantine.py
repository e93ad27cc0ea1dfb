"""Damaged nodes are set aside, not deleted: a build makes them anew, and gc frees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sfvm import safejson
from sfvm.repository.files import sync
from sfvm.repository.twins import FLAT

if TYPE_CHECKING:
    from sfvm.repository.store import Repository


def set_aside(repository: Repository, key: str) -> None:
    """Move the node's manifest, then its overlay and its flattened twin, away; its name stays."""
    for path in (repository.nodes / f"{key}.json", repository.overlay(key)):
        move(path, repository.root / "quarantine" / path.name)
    sync(repository.nodes)
    _set_twin_aside(repository, key)


def _set_twin_aside(repository: Repository, key: str) -> None:
    for path in (repository.layers / f"{key}{FLAT}", repository.flat_digest(key)):
        move(path, repository.root / "quarantine" / path.name)


def set_aside_strangers(repository: Repository, key: str, origin: str) -> None:
    """Set aside the descendants of *key* that were made on another build of it than *origin*, and a flattened twin that
    none is left to vouch for: their bytes do not fit what is about to be published."""
    parents = [(key, origin)]
    fitting = False
    while parents:
        parent, wanted = parents.pop()
        for path in sorted(repository.nodes.glob("*.json")):
            content = path.read_bytes()
            if parent.encode() not in content or path.stem == parent:
                continue
            try:
                found = safejson.loads(content)
                child, fits = found["parent"] == parent, found["parent_origin"] == wanted
            except (ValueError, KeyError, TypeError):
                continue  # damaged by itself: verify tells
            if child and not fits:
                set_aside(repository, path.stem)
                parents.append((path.stem, ""))
            fitting = fitting or (child and fits)
    if not fitting:
        _set_twin_aside(repository, key)


def move(path: Path, target: Path) -> None:
    """Move *path*, if it is there, over *target*."""
    target.parent.mkdir(exist_ok=True)
    if path.exists():
        path.replace(target)
