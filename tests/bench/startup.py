"""sfvm's own cost: its start, a build in which nothing is to do, its memory."""

from __future__ import annotations

import os
import shutil
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
    program = Path(sys.executable).with_name("sfvm")
    build = [program, "build", "--specs", specs]
    base, shown, leaf, every = alternately(
        [
            command([sys.executable, "-c", BASE]),
            command([program, "--help"]),
            command([*build, names[-1]], SFVM_HOME=str(bench.repository)),
            command([*build, *names], SFVM_HOME=str(bench.repository)),
        ],
        TIMES,
    )
    peak = sfvm("build", *names, "--specs", str(specs), repository=bench.repository).peak
    return [
        Result("sfvm --help / bare imports", shown, base, 2),
        Result("1,000 nodes cached, build of the leaf / bare imports", leaf, base, 6),
        Result("1,000 nodes cached, build of all names / bare imports", every, base, 6),
        Result("1,000 nodes cached, memory of sfvm", peak, None, 120, "MiB"),
    ]


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
