"""Xen's own programs, where no hypervisor runs."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.peers.tools import tool


class Refused(Exception):
    """One of Xen's programs does not take what it was given; the text is what it says."""


def program(name: str) -> str:
    """The path of Xen's program *name*: Debian keeps those of several releases apart, behind a wrapper that wants a
    hypervisor."""
    found = sorted(Path("/usr/lib").glob(f"xen-[0-9]*/bin/{name}"))
    return str(found[-1]) if found else tool(name)


def xl(configuration: Path, work: Path) -> dict[str, Any]:
    """What ``xl create`` would create of *configuration*: libxl's own description. *work* is for temporary files.

    :raises Refused: it would create nothing
    """
    stub = work / "nohypervisor.so"
    if not stub.exists():
        source = Path(__file__).with_name("nohypervisor.c")
        subprocess.run([tool("gcc"), "-w", "-shared", "-fPIC", "-o", stub, source], check=True)
    words = [program("xl"), "-N", "create", configuration]
    done = subprocess.run(words, env={**os.environ, "LD_PRELOAD": str(stub)}, capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def pygrub(disk: Path, work: Path) -> dict[str, bytes]:
    """The ``kernel`` and ``ramdisk`` that pygrub takes out of *disk* for its first entry, and the ``args``.

    :raises Refused: it finds none
    """
    output = work / "pygrub"
    output.mkdir(exist_ok=True)
    words = [program("pygrub"), "-q", "--output-format=simple", f"--output-directory={output}", disk]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr)
    found: dict[str, bytes] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        if name in ("kernel", "ramdisk"):
            found[name] = Path(value).read_bytes()
            Path(value).unlink()
        elif name == "args":
            found[name] = value.strip('"').encode()
    return found


def notes(vmlinux: Path) -> set[str]:
    """The names of the ELF notes for Xen in *vmlinux*.

    :raises Refused: it is no kernel that Xen reads
    """
    done = subprocess.run([program("readnotes"), vmlinux], capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr)
    return {line.partition(":")[0] for line in done.stdout.splitlines()}
