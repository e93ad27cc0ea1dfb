"""The appliance's kernel: one that the user can read, or one downloaded as a package, without root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sfvm.errors import ApplianceError
from sfvm.events import Listener, Preparing


@dataclass(frozen=True)
class Kernel:
    """A kernel file and the directory of its modules (``…/lib/modules/<version>``)."""

    path: Path
    modules: Path

    @property
    def version(self) -> str:
        return self.modules.name


def find(cache: Path, listener: Listener) -> Kernel:
    """The newest readable kernel of the host, else the one downloaded before, else download one.

    :raises ApplianceError: there is none and none can be downloaded
    """
    if not Path("/lib/modules").is_dir():
        raise ApplianceError(
            "there is no /lib/modules directory",
            why="supermin, which builds the appliance, looks at it even when its kernel is elsewhere",
            hint="as root: mkdir -p /lib/modules (./bootstrap does it)",
        )
    return present(cache) or _download(cache / "kernel", listener)


def present(cache: Path) -> Kernel | None:
    """The kernel that is there already; downloads nothing."""
    return _newest(Path("/")) or _newest(cache / "kernel")


def _newest(root: Path) -> Kernel | None:
    found = []
    for modules in sorted((root / "lib" / "modules").glob("*")):
        for path in (root / "boot" / f"vmlinuz-{modules.name}", modules / "vmlinuz"):
            if (modules / "modules.dep").is_file() and os.access(path, os.R_OK):
                found.append(Kernel(path, modules))
    return max(found, key=lambda kernel: _ordering(kernel.version), default=None)


def _ordering(version: str) -> list[tuple[int, str]]:
    parts = version.replace("-", ".").replace("_", ".").split(".")
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def _download(target: Path, listener: Listener) -> Kernel:
    what = "the appliance's kernel"
    listener(Preparing(what))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="kernel-") as directory:
        here = Path(directory)
        if shutil.which("apt-get") and shutil.which("dpkg"):
            package = _debian_package()
            _run(["apt-get", "-q", "download", package], here)
            _run(["dpkg", "-x", str(next(here.glob("*.deb"))), "root"], here)
        elif shutil.which("dnf") and shutil.which("rpm2cpio"):
            _run(["dnf", "-q", "download", "kernel-core", "kernel-modules-core"], here)
            (here / "root").mkdir()
            for rpm in here.glob("*.rpm"):
                _run(["sh", "-c", 'cd root && rpm2cpio "../$1" | cpio -idm --quiet', "sh", rpm.name], here)
        else:
            raise ApplianceError(
                "there is no kernel that the appliance could boot",
                why="none in /boot can be read, and neither apt nor dnf is here to download one",
                hint="install a kernel package, or make one readable: chmod a+r /boot/vmlinuz-*",
            )
        root = here / "root"
        if (root / "usr" / "lib" / "modules").is_dir() and not (root / "lib").exists():
            (root / "lib").symlink_to("usr/lib")
        for modules in (root / "lib" / "modules").iterdir():
            _run(
                [shutil.which("depmod", path="/usr/sbin:/sbin:/usr/bin") or "depmod", "-b", str(root), modules.name],
                here,
            )
        shutil.rmtree(target, ignore_errors=True)
        root.rename(target)
    listener(Preparing(what, done=True))
    kernel = _newest(target)
    if kernel is None:
        raise ApplianceError("the downloaded kernel package holds no kernel", hint="install a kernel package")
    return kernel


def _debian_package() -> str:
    for meta in ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-amd64"):
        depends = subprocess.run(
            ["apt-cache", "depends", "--important", meta], capture_output=True, text=True, check=False
        )
        for line in depends.stdout.splitlines():
            relation, _, name = line.strip().partition(" ")
            if relation == "Depends:" and name.startswith("linux-image-"):
                return name
    raise ApplianceError(
        "no kernel package can be found", why="the package index is missing or old", hint="as root: apt-get update"
    )


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ApplianceError(
            f"the appliance's kernel cannot be downloaded: {command[0]} failed",
            why=f"exit status {done.returncode}",
            detail=done.stderr.splitlines()[-10:],
            hint="install a kernel package, or update the package index",
        )
