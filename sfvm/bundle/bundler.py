"""Makes bundles: one finish overlay and one composed disk per node and layout, all formats from it side by side."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sfvm import __version__
from sfvm.bundle.compose import compose
from sfvm.bundle.finish import archive, finish
from sfvm.bundle.format import FormatRequest, Recipe, expand
from sfvm.bundle.layout import Layout
from sfvm.bundle.stage import Stage
from sfvm.bundle.workspace import replace, workspace
from sfvm.config import Settings
from sfvm.errors import BundleError, SfvmError
from sfvm.events import Bundled, Bundling, Listener, phase, within
from sfvm.repository import Manifest, Repository
from sfvm.repository.files import sync

ROOM = 256 << 20


def bundle(
    nodes: Sequence[tuple[str, Manifest]],
    requests: Sequence[FormatRequest],
    output: Path,
    repository: Repository,
    settings: Settings,
    listener: Listener,
) -> tuple[Path, ...]:
    """Make every format of *requests* from every one of *nodes* (name, manifest): ``output/NAME-FORMAT/``, each
    complete or not there. Return the directories.

    :raises BundleError: a node cannot be bundled so
    :raises SfvmError: anything else that the user can act on
    """
    made: list[Path] = []
    output.mkdir(parents=True, exist_ok=True)
    for name, manifest in nodes:
        recipes = [expand(wanted, name, manifest.facts) for wanted in requests]
        groups: dict[Layout | None, list[Recipe]] = {}
        for recipe in recipes:
            groups.setdefault(recipe.layout, []).append(recipe)
        with repository.lease([manifest.key]):
            for layout, members in groups.items():
                made += _group(name, manifest, layout, members, output, repository, settings, listener)
    return tuple(made)


def _group(
    name: str,
    manifest: Manifest,
    layout: Layout | None,
    recipes: Sequence[Recipe],
    output: Path,
    repository: Repository,
    settings: Settings,
    listener: Listener,
) -> list[Path]:
    """The formats that share a layout."""

    def tell(text: str, fraction: float | None = None) -> None:
        for recipe in recipes:
            listener(Bundling(name, recipe.format, text, fraction))

    begun = time.monotonic()
    for recipe in recipes:
        _require_ours(output / f"{name}-{recipe.format}")
    content = sum(path.stat().st_size for path in repository.files(manifest.key))
    _require_room(output, content * (1 + len(recipes)) + ROOM)
    ours = within(listener, ", ".join(recipe.format for recipe in recipes))
    with workspace(output, phase(ours, name, "clean-up")) as work:
        disk = tree = None
        if layout is not None:
            tell("finishing")
            with phase(ours, name, "finishing"):
                finished = finish(name, manifest, layout, work, repository, settings, ours)
            disk = work / "disk.raw"
            architecture = manifest.facts.get("architecture", "x86_64")
            with phase(ours, name, "composing"):
                compose(finished, layout, manifest.disk, architecture, disk, lambda f: tell("composing the disk", f))
            finished.filesystem.unlink()
        else:
            tell("archiving")
            with phase(ours, name, "archiving"):
                tree = archive(name, manifest, work, repository, settings, ours)
        stop = threading.Event()
        with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            futures = [
                pool.submit(_make, name, manifest, recipe, disk, tree, work, output, listener, begun, stop)
                for recipe in recipes
            ]
            try:
                return [future.result() for future in futures]
            except BaseException:
                stop.set()  # the others end at their next progress
                raise


def _make(
    name: str,
    manifest: Manifest,
    recipe: Recipe,
    disk: Path | None,
    tree: Path | None,
    work: Path,
    output: Path,
    listener: Listener,
    begun: float,
    stop: threading.Event,
) -> Path:
    """One bundle directory, in *work* until it is complete."""
    directory = work / f"{name}-{recipe.format}"
    directory.mkdir()
    made: list[str] = []
    known = {
        "name": name,
        "key": manifest.key,
        "settings": dict(recipe.settings),
        "facts": dict(manifest.facts),
        "packages": [list(package) for package in manifest.packages],
        "disk": disk.stat().st_size if disk else 0,
    }
    for verb in recipe.outputs:
        progress = functools.partial(_progress, listener, stop, name, recipe.format, verb.title())
        progress(None)
        stage = Stage(directory, disk, tree, progress, known, made)
        try:
            with phase(listener, name, verb.title(), recipe.format):
                verb.make(stage)
        except SfvmError as error:
            error.place = error.place or verb.place
            raise
    listener(Bundling(name, recipe.format, "checksums"))
    with phase(listener, name, "checksums", recipe.format):
        artifacts = {path.name: _describe(path) for path in sorted(directory.iterdir())}
    content = _manifest(name, manifest, recipe, artifacts)
    (directory / "manifest.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    listed = {**artifacts, "manifest.json": _describe(directory / "manifest.json")}
    sums = "".join(f"{entry['sha256']}  {file}\n" for file, entry in listed.items())
    (directory / "SHA256SUMS").write_text(sums, encoding="utf-8")
    target = output / directory.name
    with phase(listener, name, "publishing", recipe.format):
        for path in (*directory.iterdir(), directory):
            sync(path)
        replace(directory, target, work)
    listener(Bundled(name, recipe.format, str(target), tuple(artifacts), time.monotonic() - begun))
    return target


def _progress(
    listener: Listener, stop: threading.Event, node: str, format_: str, phase: str, fraction: float | None
) -> None:
    if stop.is_set():
        raise BundleError("stopped, because another bundle failed or the user asked for it", node=node)
    listener(Bundling(node, format_, phase, fraction))


def _manifest(name: str, manifest: Manifest, recipe: Recipe, artifacts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "node": name,
        "key": manifest.key,
        "format": recipe.format,
        "settings": dict(recipe.settings),
        "artifacts": artifacts,
        "facts": dict(manifest.facts),
        "filesystem": {"type": manifest.filesystem, "size": manifest.disk},
        "packages": [list(package) for package in manifest.packages],
        "steps": [step.title for step in manifest.steps],
        "provenance": {**manifest.provenance, "bundled-by": f"sfvm {__version__}", "built": manifest.created},
    }


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _require_ours(target: Path) -> None:
    """A bundle replaces an older one, nothing else."""
    if target.exists() and not (target / "SHA256SUMS").is_file():
        raise BundleError(
            f"{target} is in the way", why="it is no bundle", hint="move it, or name another directory with --output"
        )


def _require_room(output: Path, wanted: int) -> None:
    free = shutil.disk_usage(output).free
    if free < wanted:
        raise BundleError(
            "there is too little room for the bundle",
            why=f"{output} has {free >> 20} MiB free, about {wanted >> 20} MiB are needed",
            hint="free some, or name another directory with --output",
        )
