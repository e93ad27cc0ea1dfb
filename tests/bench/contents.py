"""What is inside: two siblings of a large parent."""

from __future__ import annotations

import hashlib
import random
import statistics
from pathlib import Path

from tests.bench.measure import Bench, Result, command, sfvm
from tests.bench.tree import HEAD, TAIL

MIB = 1 << 20
DIRECTORIES, EACH, LARGE = 2_000, 20, 200
"""So many directories with so many small files, and so many files of 9 MiB: 2 GB together."""
DIFFERENT = 10


def diff(bench: Bench) -> list[Result]:
    """Siblings that differ in ten files, of a parent of 2 GB with 40,000 files. The first diff, untimed, saves the
    shape of its appliance."""
    image = bench.home / "large.raw"
    _parent(bench.home / "tree", image)
    with image.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    root = f"""<filesystem xmlns="urn:sfvm:1" name="large"><disk size="8G" format="ext4"/>
<base><image from="large.raw" sha256="{digest}"/></base></filesystem>"""
    leaf = "".join(f'<file path="/srv/{number}/file-1">${{text}}</file>' for number in range(DIFFERENT))
    leaves = {name: HEAD.format(name, "large") + leaf + TAIL for name in ("one", "two")}
    specs = bench.specs(large=root, **leaves)
    image.rename(specs / image.name)
    arguments = [word for name in leaves for word in ("--param", f"{name}:text={name}")]
    sfvm("build", *leaves, *arguments, "--specs", str(specs), repository=bench.repository)
    runs = [sfvm("diff", *leaves, "--json", repository=bench.repository) for _ in range(4)][1:]
    seconds, peak = statistics.median(run.seconds for run in runs), max(run.peak for run in runs)
    note = f"memory of sfvm {peak:.0f} MiB"
    return [Result("diff of siblings, ten files of 2 GB", seconds, None, 10, note=note)]


def _parent(tree: Path, image: Path) -> None:
    """A filesystem of files as a distribution has them: many, most of them small."""
    noise = random.Random(1).randbytes(MIB)
    for number in range(DIRECTORIES):
        directory = tree / (f"srv/{number}" if number < DIFFERENT else f"usr/share/{number % 40}/{number}")
        directory.mkdir(parents=True)
        for each in range(EACH):
            (directory / f"file-{each}").write_bytes(noise[number : number + (number * 37 + each * 911) % 9000])
    for number in range(LARGE):
        with (tree / f"large-{number}").open("wb") as file:
            file.writelines([noise] * 9)
    with image.open("wb") as file:
        file.truncate(4 << 30)
    command(["mke2fs", "-q", "-t", "ext4", "-F", "-O", "^metadata_csum_seed,^orphan_file", "-d", tree, image])()
