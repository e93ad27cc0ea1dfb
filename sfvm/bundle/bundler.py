"""Makes bundles: one finish overlay and one disk around it per node and layout, all formats from it side by side."""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sfvm import __version__
from sfvm.build.scheduler import Job, Schedule, limit, raise_first
from sfvm.bundle.disk.compose import compose, identity_of, table_of
from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.disk.layout import Layout
from sfvm.bundle.finish import finish
from sfvm.bundle.format import FormatRequest, Recipe, check, expand
from sfvm.bundle.kernel import Kernel
from sfvm.bundle.secrets import Secret
from sfvm.bundle.stage import Stage, Unfit
from sfvm.bundle.trees import tree
from sfvm.bundle.workshop import Workshop, epoch, identity, in_machine
from sfvm.bundle.workspace import put, workspace
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.config import Settings
from sfvm.errors import BundleError, SfvmError, UsageError, suggestion
from sfvm.events import Bundled, BundleFailed, BundleSkipped, Bundling, Listener, phase, within
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
    force: bool = False,
    secrets: Mapping[str, Secret] = {},  # it is not changed
) -> None:
    """Make every format of *requests* from a built node that is called *name*; see :class:`Bundler`.

    :raises BundleError: the node cannot be bundled so
    :raises SfvmError: anything else that the user can act on
    """
    bundler = Bundler(output, repository, settings, listener, made, force, secrets)
    todo = bundler.jobs(name, manifest.key, manifest.facts, requests)
    raise_first(Schedule(todo, limit(settings)).run(), listener)


@dataclass(frozen=True)
class Bundler:
    """Makes bundles ``output/NAME-FORMAT/``, each complete or not there; *made* is told every one that is complete,
    from several threads. What is there already is replaced only by *force*. *secrets* are the user's, by name."""

    output: Path
    repository: Repository
    settings: Settings
    listener: Listener
    made: Callable[[Path], None]
    force: bool = False
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    def jobs(self, name: str, key: str, facts: Mapping[str, str], requests: Sequence[FormatRequest]) -> tuple[Job, ...]:
        """What is to be done for the node with *key*, which need not be built yet: a job for each layout. *facts* are
        those of its guest.

        :raises SfvmError: a format cannot be made of it, or something else has the place of a bundle
        """
        groups: dict[Layout | None, list[Recipe]] = {}
        for wanted in requests:
            try:
                recipe = expand(wanted, name, facts)
                self._require_secrets(recipe)
            except Unfit as error:
                if not wanted.optional:
                    raise
                self.listener(BundleSkipped(name, wanted.format.name, error.why or error.what))
                continue
            self._require_free(self.target(name, recipe))
            groups.setdefault(recipe.layout, []).append(recipe)
        if not any(wanted.optional for wanted in requests):
            self._require_use([layout for layout in groups if layout is not None])
        todo = [_Group(self, name, key, layout, tuple(recipes)) for layout, recipes in groups.items()]
        return tuple(Job(name, key, group.run) for group in todo)

    def target(self, name: str, recipe: Recipe) -> Path:
        return self.output / f"{name}-{recipe.format}"

    def _require_secrets(self, recipe: Recipe) -> None:
        layout = recipe.layout
        for secret in layout.secrets if layout else ():
            if secret not in self.secrets:
                raise Unfit(
                    f"format {recipe.format} needs the secret {secret!r}",
                    place=layout.place if layout else None,
                    why=f"it needs --secret {secret}=…",
                    hint=f"--secret {secret}=file:PATH, or --secret {secret}=env:VARIABLE",
                )

    def _require_use(self, layouts: Sequence[Layout]) -> None:
        wanted = {secret for layout in layouts for secret in layout.secrets}
        for secret in self.secrets:
            if secret not in wanted:
                raise UsageError(f"no format wants a secret {secret!r}", hint=suggestion(secret, wanted))

    def _require_free(self, target: Path) -> None:
        if not target.exists():
            return
        if not (target / "SHA256SUMS").is_file():
            raise BundleError(
                f"{target} is in the way",
                why="it is no bundle",
                hint="move it, or name another directory with --output",
            )
        if not self.force:
            raise BundleError(
                f"{target} is there already",
                why="a bundle is not overwritten unless you say so",
                hint="--force replaces it; --output names another directory",
            )


@dataclass(frozen=True)
class _Made:
    """What was made of the node, for the stages of its formats."""

    disk: Disk | None = None
    archive: Path | None = None
    vmlinuz: Path | None = None
    initrd: Path | None = None
    overlay: Path | None = None
    layers: tuple[Path, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Group:
    """The formats of a node that share a layout; *done* are the names of those that are made or left out."""

    bundler: Bundler
    name: str
    key: str
    layout: Layout | None
    recipes: tuple[Recipe, ...]
    done: set[str] = field(default_factory=set)

    def run(self, stop: Cancellation, at_once: int) -> None:
        """The work of a :class:`sfvm.build.scheduler.Job`."""
        try:
            with self.bundler.repository.lease([self.key]):
                self._run(self.bundler.repository.manifest(self.key), stop, at_once)
        except SfvmError as error:
            stop.check()
            error.node = error.node or self.name
            left = [recipe for recipe in self.recipes if recipe.format not in self.done]
            if isinstance(error, Unfit) and all(recipe.optional for recipe in left):
                for recipe in left:
                    self._skip(recipe, error)
                return
            for recipe in left:
                self.bundler.listener(BundleFailed(self.name, recipe.format, error.render()))
            raise

    def _skip(self, recipe: Recipe, error: Unfit) -> None:
        self.done.add(recipe.format)
        self.bundler.listener(BundleSkipped(self.name, recipe.format, error.why or error.what))

    def _tell(self, text: str, fraction: float | None = None) -> None:
        for recipe in self.recipes:
            self.bundler.listener(Bundling(self.name, recipe.format, text, fraction))

    def _run(self, manifest: Manifest, stop: Cancellation, at_once: int) -> None:
        begun = time.monotonic()
        bundler = self.bundler
        bundler.output.mkdir(parents=True, exist_ok=True)
        content = sum(path.stat().st_size for path in bundler.repository.files(self.key))
        _require_room(bundler.output, content * (1 + len(self.recipes)) + ROOM)
        ours = within(bundler.listener, ", ".join(recipe.format for recipe in self.recipes))
        settings = replace(bundler.settings, cpus=bundler.settings.cpus_each(at_once))
        shop = Workshop(bundler.repository, settings, ours, stop, bundler.secrets)
        with workspace(bundler.output, phase(ours, self.name, "clean-up")) as work:
            make = self._disk if self.layout is not None else self._tree
            fitting, made = make(manifest, work, shop)
            if fitting:
                self._formats(fitting, functools.partial(self._make, manifest, made, work, shop, begun), stop)

    @property
    def _needs(self) -> frozenset[str]:
        return frozenset().union(*(recipe.needs for recipe in self.recipes))

    def _fitting(self, manifest: Manifest, kernel: Kernel | None) -> tuple[Recipe, ...]:
        """The formats that the node fits; those of all formats that it does not fit are left out.

        :raises Unfit: it does not fit one that was asked for
        """
        packages = frozenset(package[0] for package in manifest.packages)
        fitting = []
        for recipe in self.recipes:
            try:
                check(recipe, kernel, packages, manifest.filesystem)
            except Unfit as error:
                if not recipe.optional:
                    raise
                self._skip(recipe, error)
            else:
                fitting.append(recipe)
        return tuple(fitting)

    def _disk(self, manifest: Manifest, work: Path, shop: Workshop) -> tuple[tuple[Recipe, ...], _Made]:
        """Finish the node and compose the disk, below *work*."""
        assert self.layout is not None
        self._tell("finishing")
        with phase(shop.listener, self.name, "finishing"):
            finished = finish(self.name, manifest, self.layout, "kernel" in self._needs, shop, work)
        if not (fitting := self._fitting(manifest, finished.kernel)):
            return (), _Made()
        unique = identity_of(self.layout, identity(manifest.key))
        table = table_of(self.layout, manifest.disk, unique, finished.sizes(self.layout), finished.root_hash)
        architecture = manifest.facts.get("architecture", "x86_64")
        disk = compose(finished, self.layout, table, architecture, work / "disk.raw")
        facts = {
            "disk": table.size,
            "root_uuid": finished.root,
            "arguments": finished.arguments,
            "roothash": finished.root_hash,
            "kernel": finished.kernel.version if finished.kernel else "",
        }
        return fitting, _Made(disk, vmlinuz=finished.vmlinuz, initrd=finished.initrd, facts=facts)

    def _tree(self, manifest: Manifest, work: Path, shop: Workshop) -> tuple[tuple[Recipe, ...], _Made]:
        """Make the archive of the node's files, below *work*."""
        self._tell("archiving")
        with phase(shop.listener, self.name, "archiving"):
            found = tree(self.name, manifest, work, self._needs, shop)
        version = found.kernel.version if found.kernel else ""
        facts = {"disk": 0, "root_uuid": "", "arguments": "", "roothash": "", "kernel": version}
        made = _Made(None, found.archive, found.vmlinuz, found.initrd, found.overlay, found.layers, facts)
        return self._fitting(manifest, found.kernel), made

    def _formats(
        self, recipes: Sequence[Recipe], make: Callable[[Recipe, Cancellation], None], stop: Cancellation
    ) -> None:
        """All *recipes* at once; one that fails ends the others, but for an optional one that the node does not fit."""
        together = Cancellation()

        def attempt(recipe: Recipe) -> Exception | None:
            try:
                make(recipe, together)
            except Unfit as error:
                if not recipe.optional:
                    together.cancel()
                    return error
                self._skip(recipe, error)
            except Exception as error:  # raised below, when nothing runs any more
                together.cancel()
                return error
            return None

        with stop.killing(together.cancel), ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            errors = [error for error in pool.map(attempt, recipes) if error is not None]
            for error in sorted(errors, key=lambda error: isinstance(error, Cancelled)):
                raise error

    def _make(
        self,
        manifest: Manifest,
        made: _Made,
        work: Path,
        shop: Workshop,
        begun: float,
        recipe: Recipe,
        stop: Cancellation,
    ) -> None:
        """One bundle directory, in *work* until it is complete."""
        name, listener = self.name, self.bundler.listener

        def progress(phase: str, fraction: float | None) -> None:
            stop.check()
            listener(Bundling(name, recipe.format, phase, fraction))

        target = self.bundler.target(name, recipe)
        directory = work / target.name
        directory.mkdir()
        facts = {
            "name": name,
            "key": manifest.key,
            "settings": dict(recipe.settings),
            "facts": dict(manifest.facts),
            "packages": [list(package) for package in manifest.packages],
            **made.facts,
        }
        stage = Stage(
            directory,
            made.disk,
            made.archive,
            functools.partial(progress, "checksums"),
            facts,
            stop=stop,
            vmlinuz=made.vmlinuz,
            initrd=made.initrd,
            layers=made.layers,
            identity=identity(manifest.key),
            epoch=epoch(manifest),
            machine=functools.partial(_in_machine, name, made.overlay, replace(shop, stop=stop)),
            capacity=manifest.disk,
        )
        for verb in recipe.outputs:
            progress(verb.title(), None)
            try:
                with phase(listener, name, verb.title(), recipe.format):
                    verb.make(replace(stage, progress=functools.partial(progress, verb.title())))
            except SfvmError as error:
                error.place = error.place or verb.place
                raise
        progress("checksums", None)
        # What is hashed is written out meanwhile: one waits for the CPU, the other for the disk.
        with ThreadPoolExecutor(1) as pool, phase(listener, name, "checksums", recipe.format):
            written = [pool.submit(sync, path) for path in directory.iterdir()]
            artifacts = {
                path.name: {"size": path.stat().st_size, "sha256": stage.digest(path.name)}
                for path in sorted(directory.iterdir())
            }
        content = json.dumps(_manifest(name, manifest, recipe, artifacts, made.facts), indent=1, sort_keys=True) + "\n"
        (directory / "manifest.json").write_text(content, encoding="utf-8")
        sums = "".join(f"{stage.digest(file)}  {file}\n" for file in (*artifacts, "manifest.json"))
        (directory / "SHA256SUMS").write_text(sums, encoding="utf-8")
        with phase(listener, name, "publishing", recipe.format):
            for done in written:
                done.result()
            for path in (directory / "manifest.json", directory / "SHA256SUMS", directory):
                sync(path)
            stop.check()
            put(directory, target, work)
        self.done.add(recipe.format)
        self.bundler.made(target)
        listener(Bundled(name, recipe.format, str(target), tuple(artifacts), time.monotonic() - begun))


def _manifest(
    name: str, manifest: Manifest, recipe: Recipe, artifacts: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        **({"roothash": facts["roothash"]} if facts["roothash"] else {}),
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


def _in_machine(name: str, overlay: Path | None, shop: Workshop, script: str, *drives: Path) -> str:
    return in_machine(name, overlay, shop, script, drives)


def _require_room(output: Path, wanted: int) -> None:
    free = shutil.disk_usage(output).free
    if free < wanted:
        raise BundleError(
            "there is too little room for the bundle",
            why=f"{output} has {free >> 20} MiB free, about {wanted >> 20} MiB are needed",
            hint="free some, or name another directory with --output",
        )
