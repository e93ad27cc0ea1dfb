"""A Debian with a kernel, built from nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from sfvm.bases.mmdebstrap import MERGED_USR
from sfvm.config import data
from sfvm.repository import Repository
from sfvm.spec.library import Library
from sfvm.tree import resolve
from tests.bench.measure import Bench, Result, command, sfvm, timed


def debian(bench: Bench) -> list[Result]:
    """Into an empty repository, again with what that has downloaded, once more elsewhere from its lock and without any
    network, and the same packages by mmdebstrap natively (which needs root)."""
    theirs = _native(bench.home / "native")
    repository, texts, _ = ground(replace(bench, debian=None))
    specs = bench.specs(**texts)
    sfvm("build", "busybox", repository=bench.repository)  # untimed: now the helper VM is warm
    bench.traces.mkdir(exist_ok=True)

    def build(name: str, what: str, target: float | None, *more: str, home: Path = repository) -> Result:
        trace = bench.traces / f"{name}.json"
        words = ("build", "debian", "--specs", str(specs), "--profile", str(trace), *more)
        run = sfvm(*words, repository=home)
        note = f"memory of sfvm {run.peak:.0f} MiB; {_phases(trace)}"
        title = f"Debian with kernel, {what} / mmdebstrap"
        return Result(title, run.seconds, theirs, target if theirs else None, note=note)

    rows = [build("cold", "nothing downloaded", 5, "--param", "bench=cold")]
    given = ("--param", "bench=warm")
    rows += [build("warm", "all downloaded before", 4, *given), _fetched("all downloaded before", repository)]
    sfvm("lock", "debian", "--specs", str(specs), *given, "--output", str(specs), repository=repository)
    elsewhere = bench.home / "elsewhere"
    shutil.copytree(repository / "downloads", elsewhere / "downloads", copy_function=os.link)
    locked = ("--locked", "--locks", str(specs), "--offline", *given)
    rows += [build("locked", "from its lock", None, *locked, home=elsewhere), _fetched("from its lock", elsewhere)]
    return rows


def _phases(trace: Path, most: int = 6) -> str:
    """The longest phases of a profile, and their seconds."""
    spent = json.loads(trace.read_text(encoding="utf-8"))["otherData"]["phases"]
    longest = sorted(spent.items(), key=lambda phase: -phase[1])[:most]
    return ", ".join(f"{name} {seconds:.0f} s" for name, seconds in longest)


def _fetched(what: str, repository: Path) -> Result:
    """What the last build had over the network. An index is asked for again; it comes again where the server does not
    tell when it was changed."""
    known = Repository(repository)
    fetched = known.manifest(known.names()["debian"]).fetched
    new = [one for one in fetched if not one.cached]
    names = ", ".join(one.url.rpartition("/dists/")[2] for one in new)
    note = f"{len(fetched) - len(new)} from the cache; fetched: {names or 'nothing'}"
    return Result(f"Debian, {what}: fetched", sum(one.size for one in new), None, 0, "B", note=note)


def ground(bench: Bench) -> tuple[Path, dict[str, str], tuple[str, ...]]:
    """Where to stand on a Debian: the repository, the specs it needs, the arguments for a build."""
    if bench.debian is not None:
        return bench.debian, {}, ()
    return bench.shared / "repository", {"debian": _changeable()}, ("--param", "debian:bench=warm")


def _changeable() -> str:
    """The shipped spec with a param that its first step depends on: another value, and all is built again."""
    spec = (data("specs") / "debian.xml").read_text(encoding="utf-8")
    spec, found = re.subn("(</summary>)", r'\1<param name="bench" default=""/>', spec, count=1)
    spec, more = re.subn("(<steps>)", r'\1<file path="/etc/sfvm-bench">${bench}</file>', spec, count=1)
    assert found == more == 1
    return spec


def _native(target: Path) -> float | None:
    """The seconds of mmdebstrap on the host for what the shipped spec installs."""
    if os.geteuid() != 0:
        return None
    inputs = resolve(Library([data("specs")]), ["debian"], {})[-1].inputs
    base = inputs["base"]["inputs"]
    steps = [step["inputs"] for step in inputs["steps"] if step["element"] == "packages"]
    wanted = [*base["include"], *(name for step in steps for name in step["install"])]
    words = ["mmdebstrap", "--mode=root", f"--variant={base['variant']}", f"--include={','.join(wanted)}"]
    words.append(f"--hook-dir={MERGED_USR}")  # else other packages
    return timed(command([*words, base["suite"], target]))
