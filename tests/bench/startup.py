"""sfvm's own cost: its start, a build in which nothing is to do, its memory."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import sfvm as package
from sfvm import qcow2
from sfvm.repository import Manifest, Repository
from sfvm.spec.library import Library
from sfvm.tree import resolve
from tests.bench.measure import Bench, Result, alternately, command, sfvm

COUNT = 1000
TIMES = 9
BASE = "import click, lxml.etree"
"""What a Python program of this kind cannot do without."""


def startup(bench: Bench) -> list[Result]:
    """``sfvm --help`` and builds of 1,000 nodes that are all there, against the bare imports."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    command([sys.executable, "-m", "compileall", "-q", *package.__path__])()  # as pip leaves an installed package
    specs = bench.specs(**_chain())
    names = _publish(specs, bench.repository)
    environment = {**os.environ, "SFVM_HOME": str(bench.repository)}
    ours = str(Path(sys.executable).with_name("sfvm"))
    build = [ours, "build", "--specs", str(specs)]
    commands = [[sys.executable, "-c", BASE], [ours, "--help"], [*build, names[-1]], [*build, *names]]
    programs = [Program(words, environment) for words in commands]
    base, *seconds = alternately(programs, TIMES)
    rows = (
        ("sfvm --help", 2),
        ("1,000 nodes cached, build of the leaf", 6),
        ("1,000 nodes cached, build of all names", 6),
    )
    results = []
    for (name, target), program, spent in zip(rows, programs[1:], seconds, strict=True):
        # On a machine that has other work too, this says more than the clock.
        note = f"processor time {program.processor / programs[0].processor:.2f}"
        results.append(Result(f"{name} / bare imports", spent, base, target, note=note))
    peak = sfvm("build", *names, "--specs", str(specs), repository=bench.repository).peak
    return [*results, Result("1,000 nodes cached, memory of sfvm", peak, None, 120, "MiB")]


class Program:
    """An action that runs *words* and remembers what each run cost."""

    def __init__(self, words: list[str], environment: dict[str, str]) -> None:
        self.words = words
        self.environment = environment
        self.spent: list[float] = []

    def __call__(self) -> None:
        child = subprocess.Popen(self.words, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        assert status == 0, self.words[:3]
        self.spent.append(usage.ru_utime + usage.ru_stime)

    @property
    def processor(self) -> float:
        """The median seconds of processor time."""
        return statistics.median(self.spent)


def _chain() -> dict[str, str]:
    head = '<filesystem xmlns="urn:sfvm:1" name="n{}" {}'
    specs = {"n0": head.format(0, '><disk size="1M" format="ext4"/><base><empty/></base></filesystem>')}
    for number in range(1, COUNT):
        steps = f'<steps><file path="/n{number}">{number}</file></steps></filesystem>'
        specs[f"n{number}"] = head.format(number, f'parent="n{number - 1}">') + steps
    return specs


def _publish(specs: Path, directory: Path) -> list[str]:
    """Put the chain into the repository as published nodes would lie there, without building them."""
    repository = Repository(directory)
    repository.make()
    empty = specs / "empty.qcow2"
    qcow2.create(empty, size=1 << 20)
    nodes = resolve(Library([specs]), [f"n{COUNT - 1}"], {})
    for node in nodes:
        overlay = repository.overlay(node.key)
        shutil.copy(empty, overlay)
        parent = node.parent
        manifest = Manifest(
            key=node.key, name=node.name, parent=parent.key if parent else None,
            parent_name=parent.name if parent else None, inputs=node.inputs, spec="", steps=(),
            digest=qcow2.digest(overlay), size=overlay.stat().st_size, disk=1 << 20, filesystem="ext4", facts={},
            packages=(), created=time.time(), seconds=1.0, provenance={}, depth=node.depth, origin=node.key,
        )  # fmt: skip
        (repository.nodes / f"{node.key}.json").write_bytes(manifest.dump())
        repository.point(node.name, node.key)
    return [node.name for node in nodes]
