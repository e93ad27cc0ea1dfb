"""Archives from outside: looked at on the host before anything unpacks them."""

from __future__ import annotations

import lzma
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from sfvm.errors import Place, SpecError

ZSTD = b"\x28\xb5\x2f\xfd"
MAX_HOPS = 40
"""Symlinks on one path, as Linux has it."""


def check(path: Path, place: Place) -> None:
    """Make sure that unpacking the tar file at *path* writes only below where it is unpacked.

    :raises SpecError: it is no archive, or a member is absolute, has ``..``, or is written through a link of the
        archive that leads outside
    """
    try:
        with _open(path) as file, tarfile.open(fileobj=file, mode="r:*") as archive:
            links: dict[str, str] = {}
            for member in archive:
                where = _located(member.name, links)
                if where is None:
                    raise _refused(path, member.name, "it would be written outside", place)
                target = _located(member.linkname, links) if member.islnk() else None
                if member.islnk() and target is None:
                    raise _refused(path, member.name, "it is a hard link to something outside", place)
                if not member.isdir():  # a directory does not replace a symlink to one
                    links.pop(where, None)
                if member.issym():
                    # One that leads outside is fine in a guest (/etc/mtab), but nothing may be written through it.
                    links[where] = member.linkname
                elif target in links:
                    links[where] = links[target]
            _require_end(archive)
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise _damaged(path, str(error), place) from error


def _require_end(archive: tarfile.TarFile) -> None:
    """Python's tarfile takes anything that is no header for the end; tar would skip it and go on with what follows.

    :raises tarfile.ReadError: what follows the last member is neither a block of zeros nor the end of the file
    """
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("what follows the last member is no member")


def _located(name: str, links: Mapping[str, str]) -> str | None:
    """Where *name* is, the symlinks unpacked so far followed in its directory part; None: outside, or in a loop."""
    here: list[str] = []
    rest = name.split("/")[::-1]
    if name.startswith("/") or ".." in rest:
        return None
    hops = 0
    while rest:
        part = rest.pop()
        if part == "..":
            if not here:
                return None
            here.pop()
        elif part not in ("", "."):
            here.append(part)
            target = links.get("/".join(here))
            if target is not None and any(more not in ("", ".") for more in rest):
                hops += 1
                if target.startswith("/") or hops > MAX_HOPS:
                    return None
                here.pop()
                rest += target.split("/")[::-1]
    return "/".join(here)


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(4)
    if start != ZSTD:
        return path.open("rb")
    import zstandard

    plain = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True), plain)
    except zstandard.ZstdError as error:
        plain.close()
        raise tarfile.ReadError(str(error)) from error
    except BaseException:
        plain.close()
        raise
    plain.seek(0)
    return plain


def _damaged(path: Path, why: str, place: Place) -> SpecError:
    return SpecError(f"{path.name} is no tar archive, or damaged", place=place, why=why, hint="check the file")


def _refused(path: Path, member: str, why: str, place: Place) -> SpecError:
    return SpecError(
        f"{path.name} is refused: member {member!r}", place=place, why=why, hint="make the archive with relative names"
    )
