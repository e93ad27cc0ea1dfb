"""The filesystem being built, as steps and bases see it from inside the appliance.

A protocol: the real implementation is :class:`sfvm.appliance.guest.ApplianceGuest`. All paths are absolute paths of
the guest; no operation ever leaves the guest's root, whatever symlinks the guest contains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


@dataclass(frozen=True)
class Command:
    """A script to run.

    *script* is the text, *shell* the interpreter (absolute path; extra words are its arguments), *cwd* where,
    *user* a name or number of the guest (None: root), *env* added to a small clean environment, *timeout* in seconds
    (None: no limit), *place* says where the script runs: ``guest`` (chroot, the guest's own userland) or ``appliance``
    (the appliance's tools, the guest mounted on ``/sysroot``). *packages*: it is a package manager, so it finds
    :data:`KEPT`.

    *network*: whether it may use the network at all, or the hosts that it may reach (``example.org *.example.net``);
    None: as package managers may, and nobody else. Whoever has network has :data:`PROXY` and nothing besides (see
    :mod:`sfvm.downloads.policy`); the environment says so.
    """

    script: str
    shell: str = "/bin/sh -e"
    cwd: str = "/"
    user: str | None = None
    env: Mapping[str, str] | None = None
    timeout: float | None = None
    network: bool | tuple[str, ...] | None = None
    place: str = "guest"
    packages: bool = False

    def __post_init__(self) -> None:
        if self.network is None:
            object.__setattr__(self, "network", self.packages)


PROXY = "http://127.0.0.1:3128"
"""The proxy of commands with network, in their own network namespace. Names are looked up by it: there is no DNS."""
LOCKED = "SFVM_LOCKED"
"""A variable that package managers have, not empty, when all that they fetch is that of a lock: what the repositories
have signed with a limited validity may be out of date then."""
KEPT = "/run/sfvm/packages"
"""A directory that is the same one for every package manager of one appliance, and never part of the guest."""
ATTACHED = "/dev/disk/by-path/pci-0000:00:02.0-scsi-0:0:001:0"
"""The disk image of a base in the appliance (:class:`sfvm.verbs.Attached`)."""


class CommandFailed(Exception):
    """A command ended with a non-zero *status* (124: timed out); *output* holds its last lines. Steps let it pass:
    the builder turns it into a StepError that names the step."""

    def __init__(self, status: int, output: Sequence[str]) -> None:
        super().__init__(f"exit status {status}")
        self.status = status
        self.output = tuple(output)


@dataclass(frozen=True, order=True)
class Package:
    """An installed package."""

    name: str
    version: str
    architecture: str = ""


class Guest(Protocol):
    """See the module. Every method may raise :class:`sfvm.errors.ApplianceError` when the appliance dies, and
    :class:`CommandFailed` when an operation inside it fails."""

    def run(self, command: Command) -> None:
        """Run a script; its output (stdout and stderr) streams to the log line by line. No process it leaves behind
        survives it."""

    def capture(self, command: Command) -> str:
        """Run a script and return what it wrote to stdout (at most 1 MiB); stderr goes to the log."""

    def exists(self, path: str) -> bool:
        """Whether anything is at *path* (a dangling symlink counts)."""

    def names(self, path: str) -> tuple[str, ...]:
        """What is in the directory *path*, sorted; nothing where there is none."""

    def read(self, path: str) -> bytes:
        """The content of a regular file (at most 4 MiB)."""

    def write(self, path: str, content: bytes, *, mode: int = 0o644, owner: str = "root:root") -> None:
        """Create or replace a regular file, atomically; missing parent directories are made, 0755 root."""

    def directory(self, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        """Make a directory and its missing parents; apply *mode* and *owner* to the last one where given."""

    def symlink(self, path: str, target: str) -> None:
        """Create or replace the symlink *path* with *target* as its text."""

    def remove(self, path: str) -> None:
        """Remove a file or a whole directory tree; nothing there is no error."""

    def chmod(self, path: str, mode: int) -> None: ...

    def chown(self, path: str, owner: str, *, recursive: bool = False) -> None:
        """*owner* is ``user``, ``user:group`` or numbers, names as the guest knows them. Symlinks are not followed."""

    def upload(self, source: Path, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        """Copy one file of the host to *path*."""

    def upload_tree(self, source: Path, path: str, *, owner: str | None = None) -> None:
        """Copy the content of a host directory into the directory *path* (made when missing). Modes are kept,
        symlinks stay symlinks, owner is root unless given."""

    def unpack(self, archive: Path, path: str) -> None:
        """Unpack a tar file of the host (none, gzip, xz, zstd or bzip2) into the directory *path*, numeric owners,
        xattrs and ACLs kept. The caller has checked its members."""

    def download(self, path: str, target: BinaryIO) -> None:
        """Copy one file of the guest to the host."""

    def fetch(self, url: str, sha256: str) -> Path:
        """A file of the host with the content that has this SHA-256: from the download cache, else from *url*, as far
        as the policy of the build allows. Read it only.

        :raises SfvmError: it cannot be had, or is another content
        """

    def packages(self) -> tuple[Package, ...]:
        """The installed packages as the guest's own database tells (dpkg, rpm, apk or pacman), sorted; empty when it
        has none."""
