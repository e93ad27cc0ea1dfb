"""Makes bundles: one finish overlay and one composed disk per node and layout, all formats from it side by side."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm import __version__
from sfvm.build.scheduler import Job, Schedule, limit, raise_first
from sfvm.bundle.compose import compose
from sfvm.bundle.finish import archive, finish
from sfvm.bundle.format import FormatRequest, Recipe, expand
from sfvm.bundle.layout import Layout
from sfvm.bundle.stage import Stage
from sfvm.bundle.workspace import replace, workspace
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.config import Settings
from sfvm.errors import BundleError, SfvmError
from sfvm.events import Bundled, BundleFailed, Bundling, Listener
from sfvm.repository import Manifest, Repository
from sfvm.repository.files import sync

ROOM = 256 << 20


def bundle(
    name: str,
    manifest: Manifest,
    requests: Sequence[FormatRequest],
    output: Path,
    repository: Repository,
    settings: Settings,
    listener: Listener,
    *,
    made: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Make every format of *requests* from a built node that is called *name*; see :class:`Bundler`.

    :raises BundleError: the node cannot be bundled so
    :raises SfvmError: anything else that the user can act on
    """
    bundler = Bundler(output, repository, settings, listener, made)
    todo = bundler.jobs(name, manifest.key, manifest.facts, requests)
    raise_first(Schedule(todo, limit(settings)).run(), listener)


@dataclass(frozen=True)
class Bundler:
    """Makes bundles ``output/NAME-FORMAT/``, each complete or not there; *made* is told every one that is complete,
    from several threads."""

    output: Path
    repository: Repository
    settings: Settings
    listener: Listener
    made: Callable[[Path], None]

    def jobs(self, name: str, key: str, facts: Mapping[str, str], requests: Sequence[FormatRequest]) -> tuple[Job, ...]:
        """What is to be done for the node with *key*, which need not be built yet: a job for each layout. *facts* are
        those of its guest.

        :raises SfvmError: a format cannot be made of it, or something else has the place of a bundle
        """
        groups: dict[Layout | None, list[Recipe]] = {}
        for wanted in requests:
            recipe = expand(wanted, name, facts)
            _require_ours(self._target(name, recipe))
            groups.setdefault(recipe.layout, []).append(recipe)
        return tuple(
            Job(name, key, functools.partial(self._run, name, key, layout, recipes))
            for layout, recipes in groups.items()
        )

    def _target(self, name: str, recipe: Recipe) -> Path:
        return self.output / f"{name}-{recipe.format}"

    def _run(self, name: str, key: str, layout: Layout | None, recipes: Sequence[Recipe], stop: Cancellation) -> None:
        try:
            with self.repository.lease([key]):
                self._group(name, self.repository.manifest(key), layout, recipes, stop)
        except SfvmError as error:
            stop.check()
            error.node = error.node or name
            for recipe in recipes:
                self.listener(BundleFailed(name, recipe.format, error.render()))
            raise

    def _group(
        self, name: str, manifest: Manifest, layout: Layout | None, recipes: Sequence[Recipe], stop: Cancellation
    ) -> None:
        """The formats that share a layout."""

        def phase(text: str, fraction: float | None = None) -> None:
            for recipe in recipes:
                self.listener(Bundling(name, recipe.format, text, fraction))

        begun = time.monotonic()
        self.output.mkdir(parents=True, exist_ok=True)
        content = sum(path.stat().st_size for path in self.repository.files(manifest.key))
        _require_room(self.output, content * (1 + len(recipes)) + ROOM)
        with workspace(self.output) as work:
            disk = tree = None
            if layout is not None:
                phase("finishing")
                finished = finish(name, manifest, layout, work, self.repository, self.settings, self.listener, stop)
                disk = work / "disk.raw"
                composing = functools.partial(phase, "composing the disk")
                architecture = manifest.facts.get("architecture", "x86_64")
                compose(finished, layout, manifest.disk, architecture, disk, composing, stop)
                finished.filesystem.unlink()
            else:
                phase("archiving")
                tree = archive(name, manifest, work, self.repository, self.settings, self.listener, stop)
            self._formats(name, manifest, recipes, disk, tree, work, begun, stop)

    def _formats(
        self,
        name: str,
        manifest: Manifest,
        recipes: Sequence[Recipe],
        disk: Path | None,
        tree: Path | None,
        work: Path,
        begun: float,
        stop: Cancellation,
    ) -> None:
        """All of them at once; one that fails ends the others."""
        together = Cancellation()

        def make(recipe: Recipe) -> Exception | None:
            try:
                self._make(name, manifest, recipe, disk, tree, work, begun, together)
            except Exception as error:  # raised below, when nothing runs any more
                together.cancel()
                return error
            return None

        with stop.killing(together.cancel), ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            errors = [error for error in pool.map(make, recipes) if error is not None]
            for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
                raise error

    def _make(
        self,
        name: str,
        manifest: Manifest,
        recipe: Recipe,
        disk: Path | None,
        tree: Path | None,
        work: Path,
        begun: float,
        stop: Cancellation,
    ) -> None:
        """One bundle directory, in *work* until it is complete."""

        def progress(phase: str, fraction: float | None) -> None:
            stop.check()
            self.listener(Bundling(name, recipe.format, phase, fraction))

        target = self._target(name, recipe)
        directory = work / target.name
        directory.mkdir()
        made: list[str] = []
        digests: dict[tuple[str, str], str] = {}
        facts = {
            "name": name,
            "key": manifest.key,
            "settings": dict(recipe.settings),
            "facts": dict(manifest.facts),
            "packages": [list(package) for package in manifest.packages],
            "disk": disk.stat().st_size if disk else 0,
        }
        for verb in recipe.outputs:
            told = functools.partial(progress, verb.title())
            told(None)
            stage = Stage(directory, disk, tree, told, facts, made, digests, stop)
            try:
                verb.make(stage)
            except SfvmError as error:
                error.place = error.place or verb.place
                raise
        progress("checksums", None)
        stage = Stage(directory, disk, tree, functools.partial(progress, "checksums"), facts, made, digests, stop)
        artifacts = {
            file: {"size": (directory / file).stat().st_size, "sha256": stage.digest(file)} for file in sorted(made)
        }
        content = json.dumps(_manifest(name, manifest, recipe, artifacts), indent=1, sort_keys=True) + "\n"
        (directory / "manifest.json").write_text(content, encoding="utf-8")
        sums = "".join(f"{stage.digest(file)}  {file}\n" for file in (*artifacts, "manifest.json"))
        (directory / "SHA256SUMS").write_text(sums, encoding="utf-8")
        for path in (*directory.iterdir(), directory):
            sync(path)
        stop.check()
        replace(directory, target, work)
        self.made(target)
        self.listener(Bundled(name, recipe.format, str(target), tuple(artifacts), time.monotonic() - begun))


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
