"""Bundles of one Debian: several formats together, what our own writers do in a second, and a second bundle."""

from __future__ import annotations

import shutil
from pathlib import Path

from sfvm.bundle.holes import spans
from tests.bench.debian import ground
from tests.bench.measure import Bench, Result, Run, command, sfvm, timed

MIB = 1 << 20
TOGETHER = ("raw", "qcow2", "ova", "azure", "tar")
WRITERS = {"xva": "sha1sum", "gce": "gzip", "oci": "gzip"}
"""Formats that we write ourselves, and the program that does the most expensive part of that alone."""

REPRODUCIBLE = ("raw", "qcow2", "tar", "squashfs", "oci", "ova", "xva")


def bundles(bench: Bench) -> list[Result]:
    """What is finished is kept, so every format is measured with it, alone and together."""
    repository, texts, arguments = ground(bench)
    if texts:
        sfvm("build", "debian", "--specs", str(bench.specs(**texts)), *arguments, repository=repository)
    output = bench.home / "out"

    def make(*formats: str) -> Run:
        shutil.rmtree(output, ignore_errors=True)
        return sfvm("bundle", "debian", *formats, "--output", str(output), repository=repository)

    make(*TOGETHER, *WRITERS)  # untimed: now all is finished
    alone = {name: make(name) for name in TOGETHER}
    together = make(*TOGETHER)
    rows = [
        Result(
            f"{', '.join(TOGETHER)} of a Debian / the slowest alone",
            together.seconds,
            max(run.seconds for run in alone.values()),
            1.5,
            note=f"memory of sfvm {together.peak:.0f} MiB",
        ),
        Result("a second bundle with the same layout, from what is kept", make("qcow2").seconds, None, None),
    ]
    disk = _disk(bench, repository)
    for name, program in WRITERS.items():
        run = make(name)
        theirs = timed(command([program, *(["--stdout"] if program == "gzip" else []), disk]))
        rows.append(Result(f"{name} / {program} of the raw disk's data", run.seconds, theirs, None,
                           note=f"memory of sfvm {run.peak:.0f} MiB"))  # fmt: skip
    return [*rows, *_repeated(bench, repository)]


def _repeated(bench: Bench, repository: Path) -> list[Result]:
    """How many files of a bundle are other bytes when it is made again."""
    rows = []
    for name in REPRODUCIBLE:
        sums = []
        for turn in ("one", "two"):
            where = bench.home / turn
            sfvm("bundle", "debian", name, "--output", str(where), repository=repository)
            sums.append(set((where / f"debian-{name}" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()))
            shutil.rmtree(where)
        rows.append(Result(f"{name} made again, files that differ", len(sums[1] - sums[0]), None, 0, "files"))
    return rows


def _disk(bench: Bench, repository: Path) -> Path:
    """The raw disk's data without its holes."""
    where = bench.home / "raw"
    sfvm("bundle", "debian", "raw", "--output", str(where), repository=repository)
    source, data = where / "debian-raw" / "debian.img", bench.home / "data"
    with source.open("rb") as file, data.open("wb") as target:
        for offset in spans(file.fileno(), source.stat().st_size, MIB):
            file.seek(offset)
            target.write(file.read(MIB))
    return data
