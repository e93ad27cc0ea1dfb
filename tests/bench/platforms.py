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
