"""The guest as the appliance shows it: :class:`sfvm.guest.Guest` over libguestfs.

libguestfs runs its file calls in a chroot of the guest, so an absolute symlink of the guest means the guest's own
root and nothing leaves it. A directory that a path passes through may itself be a symlink inside the guest.
"""

from __future__ import annotations

import contextlib
import posixpath
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sfvm.appliance import packages
from sfvm.appliance.runner import Runner
from sfvm.errors import ApplianceError
from sfvm.guest import Command, CommandFailed, Package

if TYPE_CHECKING:
    import guestfs

COMPRESSION = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"BZh": "bzip2", b"\x28\xb5\x2f\xfd": "zstd"}
SMALL = 1 << 20


class ApplianceGuest:
    """See the module; valid while the appliance runs and the guest is mounted."""

    def __init__(self, handle: guestfs.GuestFS, runner: Runner, died: Callable[[str, str], ApplianceError]) -> None:
        self.handle = handle
        self.runner = runner
        self.died = died

    @contextlib.contextmanager
    def _calling(self, what: str) -> Iterator[Any]:
        """libguestfs's errors as ours: a failed call is a failed command unless the appliance is gone."""
        try:
            yield self.handle
        except RuntimeError as error:
            try:
                self.handle.ping_daemon()
            except RuntimeError:
                raise self.died("the appliance died", str(error)) from error
            raise CommandFailed(1, [f"{what}: {error}"]) from error

    def run(self, command: Command) -> None:
        self.runner.run(command)

    def capture(self, command: Command) -> str:
        return self.runner.run(command, capture=True)

    def exists(self, path: str) -> bool:
        with self._calling(path) as handle:
            return bool(handle.exists(path) or handle.is_symlink(path))

    def read(self, path: str) -> bytes:
        with self._calling(path) as handle:
            content = handle.read_file(path)
            return content if isinstance(content, bytes) else str(content).encode("utf-8", errors="surrogateescape")

    def write(self, path: str, content: bytes, *, mode: int = 0o644, owner: str = "root:root") -> None:
        with self._calling(path) as handle:
            self._parents(path)
            temporary = f"{path}.sfvm-new"
            if len(content) < SMALL:
                handle.write(temporary, content)
            else:
                with tempfile.NamedTemporaryFile() as file:
                    file.write(content)
                    file.flush()
                    handle.upload(file.name, temporary)
            self._finish(temporary, mode, owner)
            handle.mv(temporary, path)

    def directory(self, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        with self._calling(path) as handle:
            handle.mkdir_p(path)
            self._finish(path, mode, owner)

    def symlink(self, path: str, target: str) -> None:
        with self._calling(path) as handle:
            self._parents(path)
            handle.ln_sf(target, path) if not self._is_directory_link(path) else handle.ln_snf(target, path)

    def _is_directory_link(self, path: str) -> bool:
        return bool(self.handle.is_symlink(path))

    def remove(self, path: str) -> None:
        with self._calling(path) as handle:
            handle.rm_rf(path)

    def chmod(self, path: str, mode: int) -> None:
        with self._calling(path) as handle:
            handle.chmod(mode, path)

    def chown(self, path: str, owner: str, *, recursive: bool = False) -> None:
        user, group = self._numbers(owner)
        with self._calling(path) as handle:
            if recursive:
                inside = self._inside(path)
                self.runner.run(Command(f"chown -hR {user}:{group} {_quote(inside)}", place="appliance", network=False))
            else:
                handle.lchown(user, group, path)

    def upload(self, source: Path, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        with self._calling(path) as handle:
            self._parents(path)
            temporary = f"{path}.sfvm-new"
            handle.upload(str(source), temporary)
            self._finish(temporary, source.stat().st_mode & 0o7777 if mode is None else mode, owner or "root:root")
            handle.mv(temporary, path)

    def upload_tree(self, source: Path, path: str, *, owner: str | None = None) -> None:
        user, group = self._numbers(owner or "root:root")

        def own(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid, member.gid, member.uname, member.gname = user, group, "", ""
            return member

        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            with tarfile.open(fileobj=file, mode="w") as archive:
                for child in sorted(source.iterdir()):
                    archive.add(child, arcname=child.name, filter=own)
            file.flush()
            self._unpack(file.name, path, None)

    def unpack(self, archive: Path, path: str) -> None:
        with archive.open("rb") as file:
            start = file.read(8)
        compression = next((name for magic, name in COMPRESSION.items() if start.startswith(magic)), None)
        self._unpack(str(archive), path, compression)

    def _unpack(self, archive: str, path: str, compression: str | None) -> None:
        with self._calling(path) as handle:
            handle.mkdir_p(path)
            target = handle.realpath(path)  # tar itself is not in a chroot
            options: dict[str, Any] = {"xattrs": True, "acls": True}
            if compression == "zstd":
                with tempfile.NamedTemporaryFile() as plain:
                    _decompress_zstd(Path(archive), plain)
                    handle.tar_in(plain.name, target, **options)
            else:
                if compression:
                    options["compress"] = compression
                handle.tar_in(archive, target, **options)

    def download(self, path: str, target: BinaryIO) -> None:
        with self._calling(path) as handle, tempfile.NamedTemporaryFile() as file:
            handle.download(path, file.name)
            while block := file.read(SMALL):
                target.write(block)

    def packages(self) -> tuple[Package, ...]:
        return packages.installed(self)

    def _parents(self, path: str) -> None:
        parent = posixpath.dirname(path)
        if parent not in ("", "/") and not self.handle.is_dir(parent, followsymlinks=True):
            self.handle.mkdir_p(parent)

    def _finish(self, path: str, mode: int | None, owner: str | None) -> None:
        if owner is not None:
            user, group = self._numbers(owner)
            self.handle.chown(user, group, path)
        if mode is not None:
            self.handle.chmod(mode, path)

    def _inside(self, path: str) -> str:
        """*path* as scripts of the appliance see it; every directory that it passes is resolved in the guest."""
        parent, name = posixpath.split(posixpath.normpath(path))
        with self._calling(path) as handle:
            return posixpath.normpath(f"/sysroot/{handle.realpath(parent or '/')}/{name}")

    def _numbers(self, owner: str) -> tuple[int, int]:
        """``user[:group]`` as numbers, names looked up in the guest; the group defaults to the user's own."""
        user, colon, group = owner.partition(":")
        if user in ("root", "0") and (not colon or group in ("root", "0")):
            return 0, 0
        uid, own = self._lookup("/etc/passwd", user)
        if not colon or not group:
            return uid, own
        return uid, self._lookup("/etc/group", group)[0]

    def _lookup(self, database: str, name: str) -> tuple[int, int]:
        if name.isdigit():
            return int(name), int(name)
        for line in self.read(database).decode("utf-8", errors="replace").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) >= 4:
                return int(fields[2]), int(fields[3]) if database == "/etc/passwd" else int(fields[2])
        raise CommandFailed(1, [f"the guest's {database} has no {name!r}"])


def _quote(path: str) -> str:
    return "'" + path.replace("'", "'\\''") + "'"


def _decompress_zstd(archive: Path, target: Any) -> None:
    import zstandard

    with archive.open("rb") as source:
        zstandard.ZstdDecompressor().copy_stream(source, target)
    target.flush()
