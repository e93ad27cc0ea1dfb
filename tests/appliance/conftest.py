"""A running appliance with a busybox guest, one per module: what a test does to the guest it does in its own place."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import pytest

from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.config import Settings
from sfvm.events import ignore
from sfvm.guest import Command

Boot = Callable[..., Appliance]


def disk(path: Path, size: str = "1G", backing: Path | None = None) -> Path:
    """An empty qcow2 file."""
    over = ["-b", str(backing), "-F", "qcow2"] if backing else []
    command = ["qemu-img", "create", "-q", "-f", "qcow2", *over, str(path), *([] if backing else [size])]
    subprocess.run(command, check=True)
    return path


def boot(image: Image, path: Path, lines: list[str], connection: str = "") -> Appliance:
    """An appliance with the disk *path*; *lines* gets its log."""
    settings = Settings(
        repository=path.parent / "repository",
        cache=platformdirs.user_cache_path("sfvm"),
        connection=connection or os.environ.get("SFVM_CONNECTION", "auto"),
    )
    return launch(image, [Drive(path)], Shape(memory=768), settings, log=lines.append, listener=ignore, node="test")


def install(appliance: Appliance) -> None:
    """A guest that is busybox and nothing else, in the mounted file system."""
    guest = appliance.guest
    guest.upload(Path(shutil.which("busybox") or "/bin/busybox"), "/bin/busybox", mode=0o755)
    guest.symlink("/bin/sh", "busybox")
    guest.directory("/tmp", mode=0o1777)
    guest.write("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1001:Alice:/home/alice:/bin/sh\n")
    guest.write("/etc/group", b"root:x:0:\nalice:x:1001:\ndisk:x:6:alice\n")
    guest.run(Command("/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin && /bin/busybox --install -s"))


@pytest.fixture(scope="module")
def log() -> list[str]:
    """Every line that the module's appliance has logged so far."""
    return []


@pytest.fixture(scope="module")
def appliance(image: Image, log: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """Running, with a busybox guest mounted."""
    with boot(image, disk(tmp_path_factory.mktemp("disk") / "disk.qcow2"), log) as running:
        running.format("ext4")
        running.mount()
        install(running)
        yield running
