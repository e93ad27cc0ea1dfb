"""qcow2 files: a header parser that opens nothing, and thin wrappers over ``qemu-img``.

The header is parsed here, in Python, because QEMU follows whatever backing or data file a header names: a foreign file
must be looked at before QEMU may open it. Format: ``docs/interop/qcow2.txt`` of QEMU.

Overlays are always created with an explicit backing format (``-F qcow2``), and name their backing file relatively.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm.cancellation import NEVER, Cancellation
from sfvm.errors import SfvmError

MAGIC = b"QFI\xfb"
DATA_FILE_EXTENSION = 0x44415441
BACKING_FORMAT_EXTENSION = 0xE2792ACA
DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = 1, 2, 4, 8, 16
"""The incompatible features: bits of the header's word."""

LOCK_PATIENCE = 10.0
"""Seconds in which a QEMU whose sfvm was killed has surely gone, too, and released its files."""

_PROGRESS = re.compile(rb"\(\s*([0-9.]+)/100%\)")


@dataclass(frozen=True)
class Header:
    """What a qcow2 header says. *size* is the virtual size in bytes; *backing* the backing file's name as it is
    written, *backing_format* its format, *data_file* the external data file's name ("" when it is external without
    a name), *incompatible* the bits of features that a reader must know."""

    version: int
    size: int
    cluster_size: int
    backing: str | None
    backing_format: str | None
    data_file: str | None
    encrypted: bool
    snapshots: int
    incompatible: int


def header(path: Path) -> Header:
    """Parse the header of *path*; nothing that it refers to is opened.

    :raises SfvmError: no qcow2 file, a damaged header, or it cannot be read
    """
    try:
        with path.open("rb") as file:
            start = file.read(4096)
            if start[:4] != MAGIC:
                raise _damaged(path, "it does not begin with the qcow2 magic")
            version, name_offset, name_length, cluster_bits = struct.unpack_from(">IQII", start, 4)
            size, encryption = struct.unpack_from(">QI", start, 24)
            (snapshots,) = struct.unpack_from(">I", start, 60)
            incompatible, length = 0, 72
            if version >= 3:
                (incompatible,) = struct.unpack_from(">Q", start, 72)
                (length,) = struct.unpack_from(">I", start, 100)
            if version not in (2, 3) or not 9 <= cluster_bits <= 21 or length < 72 or (length % 8 and version == 3):
                raise _damaged(path, f"version {version}, cluster bits {cluster_bits}, header length {length}")
            if name_length > 1023:
                raise _damaged(path, f"a backing file name of {name_length} bytes")
            file.seek(0)
            cluster = file.read(1 << cluster_bits)
            if name_offset and name_offset + name_length > len(cluster):
                raise _damaged(path, "the backing file name lies outside the first cluster")
            end = name_offset or len(cluster)
            extensions = _extensions(path, cluster[:end], length)
    except struct.error:
        raise _damaged(path, "it ends within the header") from None
    except OSError as error:
        raise SfvmError(f"{path} cannot be read", why=error.strerror) from error
    backing = cluster[name_offset : name_offset + name_length] if name_offset and name_length else b""
    data_file: bytes | None = extensions.get(DATA_FILE_EXTENSION)
    if data_file is None and incompatible & DATA_FILE:
        data_file = b""
    backing_format = extensions.get(BACKING_FORMAT_EXTENSION)
    return Header(
        version=version,
        size=size,
        cluster_size=1 << cluster_bits,
        backing=os.fsdecode(backing) if backing else None,
        backing_format=os.fsdecode(backing_format) if backing_format is not None else None,
        data_file=os.fsdecode(data_file) if data_file is not None else None,
        encrypted=encryption != 0,
        snapshots=snapshots,
        incompatible=incompatible,
    )


def _extensions(path: Path, cluster: bytes, position: int) -> dict[int, bytes]:
    """The header extensions by type: each has type, length, data, and padding to eight bytes."""
    found: dict[int, bytes] = {}
    while position + 8 <= len(cluster):
        kind, length = struct.unpack_from(">II", cluster, position)
        if kind == 0:
            break
        position += 8
        if position + length > len(cluster):
            raise _damaged(path, "a header extension is longer than the header")
        found[kind] = cluster[position : position + length]
        position += (length + 7) & ~7
    return found


def _damaged(path: Path, why: str) -> SfvmError:
    return SfvmError(f"{path} is no valid qcow2 file", why=why, hint="fetch or make it again")


def require_plain(path: Path) -> Header:
    """The header of *path*, which may name a backing file but must otherwise be an ordinary image.

    :raises SfvmError: an external data file, encryption, internal snapshots, unknown features, or marked as damaged
    """
    found = header(path)
    refused = [
        (found.data_file is not None, f"it keeps its data in another file, {found.data_file!r}"),
        (found.encrypted, "it is encrypted"),
        (found.snapshots != 0, f"it has {found.snapshots} internal snapshots"),
        (bool(found.incompatible & CORRUPT), "it is marked as corrupt"),
        (bool(found.incompatible & ~(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2)), "unknown features"),
    ]
    for refuse, why in refused:
        if refuse:
            raise SfvmError(
                f"{path} is refused", why=why, hint="convert it to a plain file with `qemu-img convert -O qcow2`"
            )
    return found


def require_standalone(path: Path) -> Header:
    """The header of *path*, which must be a plain image without a backing file: only then may QEMU open it.

    :raises SfvmError: it names another file (QEMU would read it: any file of the user), or see :func:`require_plain`
    """
    found = require_plain(path)
    if found.backing is not None:
        raise SfvmError(
            f"{path} is refused",
            why=f"its header names the backing file {found.backing!r}, which would be read",
            hint="make it stand alone with `qemu-img convert -O qcow2` where it comes from",
        )
    return found


def digest(path: Path, *, stop: Cancellation = NEVER) -> str:
    """The SHA-256 of the file's bytes, in hexadecimal.

    :raises Cancelled: *stop* asks for it
    """
    found, buffer = hashlib.sha256(), memoryview(bytearray(1 << 20))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            stop.check()
            found.update(buffer[:count])
    return found.hexdigest()


def qemu_img(
    *arguments: str | Path, progress: Callable[[float], None] | None = None, stop: Cancellation = NEVER
) -> str:
    """Run ``qemu-img`` and return what it prints. With *progress* (called with 0 to 1) it runs with ``-p``.

    It is killed when *stop* asks for it, when this is interrupted, and when this process dies.

    :raises SfvmError: it is missing or fails
    :raises Cancelled: *stop* asks for it
    """
    program = shutil.which("qemu-img")
    if program is None:
        raise SfvmError("qemu-img cannot be run", hint="install it: qemu-utils (Debian), qemu-img (Fedora)")
    command = [program, str(arguments[0]), *(["-p"] if progress else []), *(str(a) for a in arguments[1:])]
    # One that outlived us would hold its locks on files that the next build wants to change.
    if bound := shutil.which("setpriv"):
        command = [bound, "--pdeathsig", "KILL", *command]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C"},
        process_group=0,  # Ctrl-C is for us to handle
    )
    with stop.running(process):
        output, errors = _communicate(process, progress)
    stop.check()
    if process.returncode != 0:
        lines = errors.decode(errors="replace").strip().splitlines()
        why = (lines[-1] if lines else f"exit status {process.returncode}").removeprefix("qemu-img: ")
        raise SfvmError(f"qemu-img {arguments[0]} failed", why=why, detail=lines[:-1])
    return output.decode(errors="replace")


def _communicate(process: subprocess.Popen[bytes], progress: Callable[[float], None] | None) -> tuple[bytes, bytes]:
    """What it writes to stdout and stderr."""
    if progress is not None:
        assert process.stdout is not None
        while chunk := os.read(process.stdout.fileno(), 4096):
            if fractions := _PROGRESS.findall(chunk):
                progress(float(fractions[-1]) / 100)
    return process.communicate()


def create(path: Path, *, size: int | None = None, backing: Path | None = None) -> None:
    """Create an empty image of *size* bytes, or an overlay over *backing* (of its size unless given).

    :raises SfvmError: qemu-img fails
    """
    over = ["-b", _relative(backing, path), "-F", "qcow2"] if backing is not None else []
    qemu_img("create", "-q", "-f", "qcow2", *over, path, *([str(size)] if size is not None else []))


def convert(
    source: Path,
    target: Path,
    *,
    compress: bool = False,
    progress: Callable[[float], None] | None = None,
    stop: Cancellation = NEVER,
) -> None:
    """Write the content of *source*, all of its chain, into the standalone qcow2 file *target*.

    :raises SfvmError: qemu-img fails
    :raises Cancelled: *stop* asks for it
    """
    packed = ["-c", "-o", "compression_type=zstd"] if compress else []
    qemu_img(
        "convert", "-U", "-W", "-f", "qcow2", "-O", "qcow2", *packed, source, target, progress=progress, stop=stop
    )  # fmt: skip


def rebase(path: Path, backing: Path, *, name: str | None = None) -> None:
    """Make *path* name *backing*, relatively (or by *name* as it is): only the header is written, the content of both
    is trusted to be the same. Does nothing when it names it already.

    :raises SfvmError: qemu-img fails, or another process keeps *path* open
    """
    wanted = name or _relative(backing, path)
    found = header(path)
    if found.backing == wanted and found.backing_format == "qcow2":
        return
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            qemu_img("rebase", "-u", "-f", "qcow2", "-b", wanted, "-F", "qcow2", path)
            return
        except SfvmError as error:
            # A QEMU whose sfvm was killed ends a moment later; until then it holds its lock on the file.
            if '" lock' not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def check(path: Path) -> None:
    """Check the structure of *path* alone; its backing file is not opened.

    :raises SfvmError: it is damaged
    """
    qemu_img("check", "-q", "-U", "json:" + json.dumps({**_opened(path), "backing": None}))


def allocated(path: Path) -> tuple[tuple[int, int], ...]:
    """What *path* itself holds, whatever it lies on: the first byte and the one after the last, in order. Clusters that
    are zero by a flag count.

    :raises SfvmError: qemu-img fails
    """
    alone = "json:" + json.dumps({**_opened(path), "backing": None})
    parts = json.loads(qemu_img("map", "-U", "--output=json", alone))
    return tuple((part["start"], part["start"] + part["length"]) for part in parts if part["present"])


def seal(
    tip: Path, first_backing: Path | None, parent: Path | None, target: Path, *, stop: Cancellation = NEVER
) -> None:
    """Write the content of *tip* into *target*: one compact overlay over *parent* (None: a standalone image).

    *first_backing* is the file in *tip*'s chain that has *parent*'s content (often *parent* itself). Neither is
    changed, and a running QEMU may have them open as backing files. *target* names *parent* as its sibling: it belongs
    into *parent*'s directory and can be opened only there.

    Not ``qemu-img convert -B``: from a chain of several overlays it copies only the top one and silently loses the
    rest. Not a safe rebase: it reads, and compares, every trimmed gigabyte. Here *target* takes the place of
    *first_backing* below the overlays, as this one process sees them, and what is allocated in them is committed to it:
    data is copied, and what was trimmed is zero by a flag, at the cost of metadata.

    :raises SfvmError: qemu-img fails; *target* is removed
    :raises Cancelled: *stop* asks for it; *target* is removed
    """
    top = target.with_name(f"{target.name}.top")
    try:
        if parent is None or first_backing is None:
            convert(tip, target, stop=stop)
            return
        create(target, backing=parent)
        create(top, size=header(tip).size)  # empty: a commit begins at a file that it may write
        graph = {**_opened(target), "discard": "unmap", "detect-zeroes": "unmap"}
        for overlay in (*reversed(_above(tip, first_backing)), top):
            # Without locks: a commit makes what lies between unreadable for others, but only here they lie on *target*.
            graph = {**_opened(overlay, locking="off"), "backing": graph}
        base = str(target.absolute())
        qemu_img("commit", "-q", "-t", "unsafe", "-d", "-b", base, "json:" + json.dumps(graph), stop=stop)
        rebase(target, parent, name=parent.name)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    finally:
        top.unlink(missing_ok=True)


def _opened(path: Path, **options: str) -> dict[str, Any]:
    """A qcow2 file, as QEMU's options for a block device have it; *options* are those of the file."""
    return {"driver": "qcow2", "file": {"driver": "file", "filename": str(path.absolute()), **options}}


def _above(tip: Path, below: Path) -> list[Path]:
    """The files of *tip*'s chain that lie over *below*, *tip* first.

    :raises SfvmError: *below* is not in it
    """
    found = [tip]
    while True:
        backing = header(found[-1]).backing
        path = found[-1].parent / backing if backing is not None else None
        if path is None or path in found:
            raise SfvmError(f"{tip} does not lie on {below}", hint="sfvm verify")
        if path.exists() and path.samefile(below):
            return found
        found.append(path)


def _relative(backing: Path, overlay: Path) -> str:
    """*backing* as *overlay* names it: relative to the directory of *overlay*, with symlinks of both resolved."""
    name = os.path.relpath(backing.resolve(), overlay.parent.resolve())
    # QEMU takes what stands before a colon as a protocol, unless a slash comes first.
    return f"./{name}" if ":" in name.split("/")[0] else name
