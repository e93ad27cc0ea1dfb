"""A desktop: the largest node that we ship, from the real mirror."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.bench.debian import ground
from tests.bench.measure import Bench, Result, sfvm


def gnome(bench: Bench) -> list[Result]:
    """debian-gnome on a Debian, with what lies between; how many packages it has is told, too."""
    repository, texts, arguments = ground(bench)
    specs = bench.specs(**texts)
    sfvm("build", "debian", "--specs", str(specs), *arguments, repository=repository)
    run = sfvm("build", "debian-gnome", "--specs", str(specs), *arguments, repository=repository)
    words = [sys.executable, "-m", "sfvm.cli", "show", "debian-gnome", "--json", "--repository", str(repository)]
    shown = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    packages = len(shown["packages"])
    note = f"{packages} packages, {run.seconds / packages:.2f} s each; memory of sfvm {run.peak:.0f} MiB"
    return [Result("debian-gnome on a Debian", run.seconds, None, None, note=note)]
