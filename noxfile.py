"""The sessions of ``./bootstrap nox``. All run in the environment that bootstrap made: the guestfs and libvirt bindings
belong to the system Python and cannot be installed into a fresh one."""

import os
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "vm", "unprivileged", "e2e"]
CPUS = os.cpu_count() or 1
PROCESSES = min(4, CPUS)
SIDE_BY_SIDE = ("-n", str(PROCESSES), "--dist", "loadfile", "--no-loadscope-reorder")
"""A module's fixtures are shared by its tests, so it stays in one process, and begins in its turn: a long test alone in
its module is not the last. A VM takes a CPU, and a gigabyte."""
OF_EACH = {"SFVM_CPUS": os.environ.get("SFVM_CPUS", str(CPUS // PROCESSES))}
"""So that VMs do not wait for each other's CPUs."""


def peers(session: nox.Session) -> None:
    """Installs what judges our bundles (Debian packages, ``tests/peers/packages``), where we may: users need none of
    it. Without it the tests that ask for it are skipped."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    lines = Path("tests/peers/packages").read_text(encoding="utf-8").splitlines()
    wanted = [name for line in lines if (name := line.partition("#")[0].strip())]
    query = ("dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *wanted)
    found = session.run(*query, external=True, silent=True, success_codes=[0, 1]) or ""
    missing = [name for name in wanted if f"{name} installed" not in str(found).splitlines()]
    if missing:
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        options = ("-qq", "--yes", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0")
        session.run("apt-get", "install", *options, *missing, external=True, silent=True, env=quiet)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, and the layers of docs/architecture.md."""
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """mypy, strict."""
    session.run("mypy", "sfvm", "noxfile.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Everything that needs no VM: seconds."""
    peers(session)
    session.run("pytest", "-m", "not vm and not e2e", *SIDE_BY_SIDE, *session.posargs)


@nox.session
def vm(session: nox.Session) -> None:
    """Tiny guests in the real appliance."""
    peers(session)
    session.run("pytest", "-m", "vm", *SIDE_BY_SIDE, *session.posargs, env=OF_EACH)


@nox.session
def unprivileged(session: nox.Session) -> None:
    """When we are root: a small tree, built and bundled by a user who is not, over libvirt and directly."""
    if os.geteuid() == 0:
        session.run("bash", "tests/unprivileged.sh", external=True)
    else:
        session.log("already an ordinary user: the vm session was it")


@nox.session
def e2e(session: nox.Session) -> None:
    """A real Debian: built, bundled, booted under BIOS and UEFI."""
    peers(session)
    # As they are named: two long ones, each with what is its own, and then the rest.
    session.run("pytest", "-m", "e2e", "-v", *SIDE_BY_SIDE, *session.posargs, env=OF_EACH)


@nox.session
def bench(session: nox.Session) -> None:
    """Ratios in one run; prints a table and writes bench.json."""
    session.run("python", "-m", "tests.bench", *session.posargs)
