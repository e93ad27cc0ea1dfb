"""Archives from outside: looked at on the host before anything unpacks them."""

from __future__ import annotations

import posixpath
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from sfvm.errors import Place, SpecError

ZSTD = b"\x28\xb5\x2f\xfd"


def check(path: Path, place: Place) -> None:
    """Make sure that unpacking the tar file at *path* writes only below where it is unpacked.

    :raises SpecError: it is no archive, or a member is absolute, has ``..``, or is written through a link of the
        archive that leads outside
    """
    try:
        with _open(path) as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            outward: set[str] = set()
            for member in archive:
                name = posixpath.normpath(member.name)
                if member.name.startswith("/") or name == ".." or name.startswith("../"):
                    raise _refused(path, member.name, "its name leads outside", place)
                parents = {name[:end] for end, character in enumerate(name) if character == "/"}
                if parents & outward:
                    raise _refused(path, member.name, "it is written through a link that leads outside", place)
                outward.discard(name)
                if member.islnk():
                    target = posixpath.normpath(member.linkname)
                    if member.linkname.startswith("/") or target == ".." or target.startswith("../"):
                        raise _refused(path, member.name, "it is a hard link to something outside", place)
                if member.issym():
                    target = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
                    if member.linkname.startswith("/") or target == ".." or target.startswith("../"):
                        # Fine in a guest (/etc/mtab -> /proc/mounts), but nothing may be written through it.
                        outward.add(name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SpecError(
            f"{path.name} is no tar archive, or damaged", place=place, why=str(error), hint="check the file"
        ) from error


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(4)
    if start != ZSTD:
        return path.open("rb")
    import zstandard

    plain = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    with path.open("rb") as file:
        zstandard.ZstdDecompressor().copy_stream(file, plain)
    plain.seek(0)
    return plain


def _refused(path: Path, member: str, why: str, place: Place) -> SpecError:
    return SpecError(
        f"{path.name} is refused: member {member!r}", place=place, why=why, hint="make the archive with relative names"
    )
