"""Runs subjects, prints a table with the machine and the accelerator, and writes bench.json."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from sfvm import config
from sfvm.appliance import acceleration, image, kernel
from sfvm.events import ignore
from tests.bench import plots
from tests.bench.appliance import appliance, checkpoint
from tests.bench.bundling import compose
from tests.bench.contents import diff
from tests.bench.debian import debian
from tests.bench.downloads import proxy
from tests.bench.formats import formats
from tests.bench.gnome import gnome
from tests.bench.measure import Bench, Result
from tests.bench.platforms import bundles
from tests.bench.startup import startup
from tests.bench.tree import edit, siblings

SUBJECTS: dict[str, Callable[[Bench], list[Result]]] = {
    "startup": startup,
    "appliance": appliance,
    "checkpoint": checkpoint,
    "siblings": siblings,
    "diff": diff,
    "proxy": proxy,
    "compose": compose,
    "formats": formats,
    "debian": debian,
    "edit": edit,
    "bundles": bundles,
    "gnome": gnome,
}
LARGE = {"gnome"}
"""Run only where they are named."""


def machine(settings: config.Settings) -> str:
    """What the figures hold for. The tools that we are compared with get the same kernel and accelerator."""
    answer = acceleration.probe(image.ensure(settings.cache, ignore), settings, ignore)
    chosen = kernel.find(settings.cache, ignore)
    os.environ["SUPERMIN_KERNEL"], os.environ["SUPERMIN_MODULES"] = str(chosen.path), str(chosen.modules)
    os.environ["LIBGUESTFS_BACKEND_SETTINGS"] = "force_kvm" if answer.profile.name == "kvm" else "force_tcg"
    qemu = subprocess.run(["qemu-img", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return f"{platform.platform()}, {os.cpu_count()} CPUs, {answer.profile.name} ({answer.reason}), {qemu}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument(
        "--only",
        default=",".join(s for s in SUBJECTS if s not in LARGE),
        help="separated by commas: " + ", ".join(SUBJECTS),
    )
    parser.add_argument("--debian", type=Path, help="a repository with the shipped Debian, for edit; else one is built")
    parser.add_argument("--plots", action="store_true", help=f"draw them into {plots.DIRECTORY}/")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if unknown := set(wanted) - set(SUBJECTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(SUBJECTS)}")
    settings = config.load(connection="direct")
    told = machine(settings)
    print(told)
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sfvm-bench-", dir="/var/tmp") as directory:
        shared = Path(directory)
        for name in wanted:
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=shared) as home:
                bench = Bench(Path(home), shared, settings, arguments.debian)
                for row in SUBJECTS[name](bench):
                    print(row.line(), flush=True)
                    results.append(row)
        content = {"machine": told, "results": [row.to_json() for row in results]}
        Path("bench.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        if arguments.plots:
            plots.draw(results, told, shared / "traces")


if __name__ == "__main__":
    main()
