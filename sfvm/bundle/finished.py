"""What finishing a node for a layout has made, kept in the repository: the next bundle with that layout needs no VM."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm import safejson
from sfvm.bundle.disk.layout import Layout
from sfvm.bundle.kernel import Kernel
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.repository import Repository
from sfvm.repository.files import LockCancelled, sync, temporary, wait, writing

FACTS = "finished.json"
FILESYSTEM = "filesystem.qcow2"
BOOT_IMAGE, CORE_IMAGE = "boot.img", "core.img"
VMLINUZ, INITRD = "vmlinuz", "initrd"


@dataclass(frozen=True)
class Finished:
    """A node made ready for a layout, as files in *directory*: its *filesystem*, an overlay over the node's; the
    content of the layout's parts by number (:meth:`part`), of its root, too, if that has not the node's blocks; GRUB's
    images for BIOS; the newest kernel, where it was wanted. *root* is the root filesystem's UUID ("" if it has none),
    *arguments* are the kernel's, *root_hash* is that of dm-verity, where there is one."""

    directory: Path
    root: str
    arguments: str = ""
    kernel: Kernel | None = None
    root_hash: str = ""

    @property
    def filesystem(self) -> Path:
        return self.directory / FILESYSTEM

    @property
    def vmlinuz(self) -> Path | None:
        return _there(self.directory / VMLINUZ)

    @property
    def initrd(self) -> Path | None:
        return _there(self.directory / INITRD)

    def part(self, number: int) -> Path | None:
        """The raw file with the content of the layout's part *number*; None for the node's blocks, and for none."""
        return _there(part_file(self.directory, number))

    def sizes(self, layout: Layout) -> dict[int, int]:
        """The sizes of the layout's parts that have content, in bytes, by number."""
        paths = {number: self.part(number) for number in range(len(layout.parts))}
        return {number: path.stat().st_size for number, path in paths.items() if path is not None}

    def image(self, name: str) -> bytes:
        """One of GRUB's images for BIOS; nothing when it was not made."""
        path = self.directory / name
        return path.read_bytes() if path.exists() else b""

    def to_json(self) -> dict[str, Any]:
        """Everything but the files."""
        kernel: dict[str, Any] | None = None
        if self.kernel is not None:
            kernel = {
                name: sorted(value) if isinstance(value, frozenset) else value
                for name, value in dataclasses.asdict(self.kernel).items()
            }
        return {"root": self.root, "arguments": self.arguments, "kernel": kernel, "roothash": self.root_hash}

    @classmethod
    def from_json(cls, directory: Path, value: Mapping[str, Any]) -> Finished:
        """The reverse of :meth:`to_json`."""
        kernel = value["kernel"]
        if kernel is not None:
            sets = {name: frozenset(found) for name, found in kernel.items() if isinstance(found, list)}
            kernel = Kernel(**{**kernel, **sets})
        return cls(directory, value["root"], value["arguments"], kernel, value["roothash"])


def part_file(directory: Path, number: int) -> Path:
    """Where the content of the layout's part *number* is."""
    return directory / f"part-{number}.img"


def _there(path: Path) -> Path | None:
    return path if path.exists() else None


def kept_already(repository: Repository, key: str, digest: str) -> Finished | None:
    """What :func:`kept` would find; None when it would have to be made."""
    return _load(_place(repository, key, digest))


def _place(repository: Repository, key: str, digest: str) -> Path:
    return repository.root / "finished" / f"{key}.{digest[:16]}"


def kept(
    repository: Repository,
    key: str,
    digest: str,
    make: Callable[[Path], Finished],
    stop: Cancellation,
    waiting: Callable[[], None],
) -> Finished:
    """What *make* has made for the node *key*, told from others of that node by *digest*: found, or made now in an
    empty directory that it is given. One process or thread makes it, others wait.

    :raises Cancelled: *stop* asks for it
    """
    target = _place(repository, key, digest)
    if (there := _load(target)) is not None:
        return there
    repository.make()
    try:
        lock = wait(repository.root / "lock" / f"finished.{target.name}", on_wait=waiting, cancelled=stop.asked)
    except LockCancelled:
        raise Cancelled from None
    try:
        if (there := _load(target)) is not None:
            return there
        # As deep as where it goes: the overlay names its backing file relatively.
        draft = temporary(repository.root / "tmp", "finish")
        try:
            draft.mkdir()
            made = make(draft)
            with writing("a finished node", repository.root):
                (draft / FACTS).write_text(json.dumps(made.to_json()), encoding="utf-8")
                for path in (*draft.iterdir(), draft):
                    sync(path)
                target.parent.mkdir(exist_ok=True)
                if target.exists():
                    shutil.rmtree(target)  # damaged
                draft.rename(target)
                sync(target.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return dataclasses.replace(made, directory=target)
    finally:
        lock.release(remove=True)


def _load(directory: Path) -> Finished | None:
    """What is there, complete; it counts as used now."""
    try:
        found = Finished.from_json(directory, safejson.loads((directory / FACTS).read_bytes()))
        os.utime(directory)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.filesystem.exists() else None
