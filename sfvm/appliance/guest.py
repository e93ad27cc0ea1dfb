"""The guest as the appliance shows it: :class:`sfvm.guest.Guest` over libguestfs.

Symlinks of the guest are followed in the directory part of a path, as the guest itself would follow them: an absolute
one means the guest's own root, and nothing leaves it. libguestfs runs most of its file calls in a chroot of the guest;
where it does not (rm, tar), the path has no symlink on its way, or ``appliance/tar`` makes the chroot. What is written
replaces the last component, whatever that was.
"""

from __future__ import annotations

import contextlib
import posixpath
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from sfvm.appliance import packages
from sfvm.appliance.runner import Runner
from sfvm.downloads.access import Access
from sfvm.errors import ApplianceError, StepError
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
        self.access: Access | None = None

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

    def names(self, path: str) -> tuple[str, ...]:
        with self._calling(path) as handle:
            return tuple(handle.ls(path)) if handle.is_dir(path, followsymlinks=True) else ()

    def read(self, path: str) -> bytes:
        with self._calling(path) as handle:
            content = handle.read_file(path)
            return content if isinstance(content, bytes) else str(content).encode("utf-8", errors="surrogateescape")

    def write(self, path: str, content: bytes, *, mode: int = 0o644, owner: str = "root:root") -> None:
        with self._replacing(path) as temporary:
            if len(content) < SMALL:
                self.handle.write(temporary, content)
            else:
                with tempfile.NamedTemporaryFile() as file:
                    file.write(content)
                    file.flush()
                    self.handle.upload(file.name, temporary)
            self._finish(temporary, mode, owner)

    @contextlib.contextmanager
    def _replacing(self, path: str) -> Iterator[str]:
        """A name beside *path* for what then replaces it in one step; missing directories are made."""
        with self._calling(path) as handle:
            parent = posixpath.dirname(_normal(path))
            if not handle.is_dir(parent, followsymlinks=True):
                handle.mkdir_p(parent)
            target = self._target(path)
            temporary = f"{target}.sfvm-new"
            if self.exists(temporary):
                handle.rm_rf(temporary)
            try:
                yield temporary
                handle.rename(temporary, target)
            except CommandFailed:
                handle.rm_rf(temporary)
                raise
            except RuntimeError:
                with contextlib.suppress(RuntimeError):  # the first error is the one that tells
                    handle.rm_rf(temporary)
                raise

    def _target(self, path: str) -> str:
        """*path* with every symlink in its directory part resolved in the guest."""
        parent, name = posixpath.split(_normal(path))
        if not name:
            raise CommandFailed(1, ["/ itself cannot be replaced or removed"])
        return posixpath.join(self.handle.realpath(parent), name)

    def directory(self, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        with self._calling(path) as handle:
            handle.mkdir_p(path)
            self._finish(path, mode, owner)

    def symlink(self, path: str, target: str) -> None:
        with self._replacing(path) as temporary:
            self.handle.ln_s(target, temporary)

    def remove(self, path: str) -> None:
        with self._calling(path) as handle:
            if self.exists(path):  # to look takes less than to remove nothing: that is a process
                handle.rm_rf(self._target(path))

    def chmod(self, path: str, mode: int) -> None:
        with self._calling(path) as handle:
            handle.chmod(mode, path)

    def chown(self, path: str, owner: str, *, recursive: bool = False) -> None:
        user, group = self._numbers(owner)
        with self._calling(path) as handle:
            if recursive:
                inside = shlex.quote("/sysroot" if _normal(path) == "/" else f"/sysroot{self._target(path)}")
                self.runner.run(Command(f"chown -hR {user}:{group} {inside}", place="appliance", network=False))
            else:
                handle.lchown(user, group, path)

    def upload(self, source: Path, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        with self._replacing(path) as temporary:
            self.handle.upload(str(source), temporary)
            self._finish(temporary, source.stat().st_mode & 0o7777 if mode is None else mode, owner or "root:root")

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
            options: dict[str, Any] = {"xattrs": True, "acls": True}
            if compression == "zstd":
                with tempfile.NamedTemporaryFile() as plain:
                    _decompress_zstd(Path(archive), plain)
                    handle.tar_in(plain.name, path, **options)
            else:
                if compression:
                    options["compress"] = compression
                handle.tar_in(archive, path, **options)

    def download(self, path: str, target: BinaryIO) -> None:
        with self._calling(path) as handle, tempfile.NamedTemporaryFile() as file:
            handle.download(path, file.name)
            while block := file.read(SMALL):
                target.write(block)

    def fetch(self, url: str, sha256: str) -> Path:
        if self.access is None:
            raise StepError(f"{url} may not be downloaded", why="nothing is, here")
        from sfvm.sources.fetch import fetch  # few builds fetch

        return fetch(url, sha256, self.access)

    def packages(self) -> tuple[Package, ...]:
        return packages.installed(self)

    def _finish(self, path: str, mode: int | None, owner: str | None) -> None:
        if owner is not None:
            user, group = self._numbers(owner)
            self.handle.chown(user, group, path)
        if mode is not None:
            self.handle.chmod(mode, path)

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


def _normal(path: str) -> str:
    """An absolute path without ``.``, ``..`` and doubled slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _decompress_zstd(archive: Path, target: Any) -> None:
    import zstandard

    with (
        archive.open("rb") as source,
        zstandard.ZstdDecompressor().stream_reader(source, read_across_frames=True) as plain,
    ):
        shutil.copyfileobj(plain, target, SMALL)
    target.flush()
