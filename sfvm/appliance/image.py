"""The appliance's image: a kernel, an initrd and a root file system that supermin makes from the host's packages.

supermin's own cache looks at time stamps and can serve a stale image; ours is found by the content that goes in. The
result is what libguestfs calls a fixed appliance (guestfs(3), "FIXED APPLIANCE").
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import filelock

from sfvm import config
from sfvm.appliance import kernel as kernels
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Preparing

ROOT_SIZE = "4G"
"""Virtual size of the appliance's root file system; the file is sparse."""
STOCK = (
    "/usr/lib/x86_64-linux-gnu/guestfs",
    "/usr/lib/aarch64-linux-gnu/guestfs",
    "/usr/lib64/guestfs",
    "/usr/lib/guestfs",
)
KEPT = 3
"""So many images stay; older ones belong to package versions that are gone."""
COMPLETE = "README.fixed"
"""libguestfs looks for this file; it is written last."""


@dataclass(frozen=True)
class Image:
    """A built appliance; *digest* names its content."""

    directory: Path
    digest: str

    @property
    def emulator(self) -> Path:
        """The emulator to start it with: QEMU with a few options more (see :func:`_wrapper`)."""
        return self.directory / "qemu"


def ensure(cache: Path, listener: Listener) -> Image:
    """The appliance for this host's packages and our definition; built when it is not in *cache* yet.

    :raises ApplianceError: something that it is made of is missing, or supermin fails
    """
    stock = _stock()
    kernel = kernels.find(cache, listener)
    digest = _digest(stock, kernel)
    home = cache / "appliance"
    image = Image(home / digest[:16], digest)
    if (image.directory / COMPLETE).exists():
        return image
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(home / "lock"):
        if not (image.directory / COMPLETE).exists():
            listener(Preparing("the appliance"))
            with tempfile.TemporaryDirectory(dir=home, prefix="build-") as directory:
                _build(stock, kernel, Path(directory))
            listener(Preparing("the appliance", done=True))
    return image


def exists(cache: Path) -> bool:
    """Whether any appliance has been built; starts nothing."""
    return any((cache / "appliance").glob(f"*/{COMPLETE}"))


def _stock() -> Path:
    for place in STOCK:
        if (Path(place) / "supermin.d" / "daemon.tar.gz").exists():
            return Path(place) / "supermin.d"
    raise ApplianceError("libguestfs is not installed", hint="./bootstrap installs it (libguestfs0, supermin)")


def packages() -> tuple[str, ...]:
    """What our definition adds to libguestfs's own package list, for this host's distribution."""
    family = "debian" if shutil.which("dpkg") else "fedora"
    lines = (config.data("appliance") / "packages" / family).read_text(encoding="utf-8").splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def _ours() -> dict[str, tuple[Path, int]]:
    """The files that our definition puts into the appliance."""
    home = config.data("appliance")
    return {
        "init": (home / "init", 0o755),
        "usr/lib/sfvm/nosync": (home / "nosync", 0o755),
        "usr/lib/sfvm/relay": (home / "relay", 0o755),
        "usr/lib/sfvm/run": (home / "run", 0o755),
        "usr/lib/sfvm/wait": (home / "wait", 0o755),
        "usr/lib/sfvm/terminal": (home / "terminal", 0o755),
        "usr/lib/sfvm/unpacked": (home / "unpacked", 0o755),
        "usr/sbin/tar": (home / "tar", 0o755),  # guestfsd's PATH has /usr/sbin before /usr/bin
    }


def _digest(stock: Path, kernel: kernels.Kernel) -> str:
    state = hashlib.sha256()
    for name, (path, mode) in _ours().items():
        state.update(f"{name} {mode}\0".encode() + path.read_bytes())
    state.update((config.data("appliance") / "hostfiles").read_bytes())
    state.update(repr((packages(), _wrapper("qemu"))).encode())
    for path in sorted(stock.iterdir()):
        state.update(path.name.encode() + path.read_bytes())
    state.update(str(kernel.version).encode() + str(kernel.path.stat().st_size).encode())
    # Which versions the packages have: the package manager's database changes whenever one does.
    for database in ("/var/lib/dpkg/status", "/var/lib/rpm/rpmdb.sqlite", "/usr/lib/sysimage/rpm/rpmdb.sqlite"):
        if os.access(database, os.R_OK):
            state.update(_file_digest(Path(database)))
    return state.hexdigest()


@functools.cache
def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _build(stock: Path, kernel: kernels.Kernel, work: Path) -> None:
    """Build in *work*, then move into place beside it."""
    supermin = shutil.which("supermin")
    qemu = shutil.which("qemu-system-x86_64")
    for name, tool in (("supermin", supermin), ("qemu-system-x86_64", qemu)):
        if tool is None:
            raise ApplianceError(f"{name} is not installed", hint="./bootstrap installs it")
    definition = work / "supermin.d"
    shutil.copytree(stock, definition)
    (definition / "zz-sfvm-packages").write_text("\n".join(packages()) + "\n", encoding="utf-8")
    # supermin takes no configuration files from packages; these are keys and certificates.
    shutil.copy(config.data("appliance") / "hostfiles", definition / "zz-sfvm-hostfiles")
    # The archive replaces the stock init: supermin unpacks base archives in the order of their names.
    with tarfile.open(definition / "init.tar.gz", "w:gz") as archive:
        for name, (path, mode) in _ours().items():
            member = tarfile.TarInfo(name)
            content = path.read_bytes()
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    result = work / "image"
    environment = {**os.environ, "SUPERMIN_KERNEL": str(kernel.path), "SUPERMIN_MODULES": str(kernel.modules)}
    done = subprocess.run(
        [str(supermin), "--build", "-f", "ext2", "--copy-kernel", "--size", ROOT_SIZE, "--host-cpu", "x86_64",
         str(definition), "-o", str(result)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise ApplianceError(
            "supermin cannot build the appliance",
            detail=done.stderr.splitlines()[-10:],
            hint="sfvm doctor names what is missing",
        )
    wrapper = result / "qemu"
    wrapper.write_text(_wrapper(str(qemu)), encoding="utf-8")
    wrapper.chmod(0o755)
    digest = _digest(stock, kernel)
    (result / COMPLETE).write_text(f"sfvm {digest}\n", encoding="utf-8")
    target = work.parent / digest[:16]
    shutil.rmtree(target, ignore_errors=True)  # an interrupted older attempt
    result.rename(target)
    old = sorted(work.parent.glob(f"*/{COMPLETE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for outdated in old[KEPT:]:
        shutil.rmtree(outdated.parent, ignore_errors=True)


def _wrapper(qemu: str) -> str:
    """libguestfs chooses the CPU model itself and knows no saved states, and QEMU, which removes its temporary files as
    soon as it has them open, leaves one when it is killed just then: an emulator of our own takes all three."""
    return f"""#!/bin/bash
# QEMU with three options of sfvm's: -sfvm-cpu MODEL in place of -cpu, -sfvm-state FILE to restore that, -sfvm-tmp
# DIRECTORY for its temporary files.
arguments=() cpu=() ours=()
while [ $# -gt 0 ]; do
    case $1 in
        -cpu) cpu=(-cpu "$2"); shift ;;
        -sfvm-cpu) ours=(-cpu "$2"); shift ;;
        -sfvm-state) [ -r "$2" ] && exec 9<"$2" && arguments+=(-incoming fd:9); shift ;;
        -sfvm-tmp) export TMPDIR=$2; shift ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
[ ${{#ours[@]}} = 0 ] || cpu=("${{ours[@]}}")
exec {qemu} "${{cpu[@]}}" "${{arguments[@]}}"
"""
