"""Warm start: appliances that have booted once are saved, and later launches restore them instead of booting.

A state is the VM's memory and devices at the moment when its ``init`` waits for the host (see
:mod:`sfvm.appliance.handshake`), as QEMU's migration writes it. It fits only the same QEMU, machine, appliance and CPU:
all of that is in its key. It is no more than an optimisation: whatever looks wrong about a state, it is removed and the
appliance boots.

States hold memory, so they are the user's alone: a directory 0700, files 0600, checked before each use; they are never
exported.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from sfvm import safejson
from sfvm.appliance.profile import Profile

VERSION = 1
"""Raised when saved states of an older sfvm cannot be used."""
KEPT = 6
"""So many states stay; the least recently used goes first."""
MAX_BYTES = 2 << 30
"""So much room all states together may take."""
UNUSED = 7 * 86400.0
"""Seconds after which gc removes a state that nobody has used: its QEMU or appliance may be gone."""
STATE, RECORD, PROVED, REFUSED = ".state", ".json", ".proved", ".refused"
DRAFT = "saving-"


class Doubt(Exception):
    """A state is there and must not be used; the message says why."""


@dataclass(frozen=True)
class State:
    """A saved appliance: the file *path* of *size* bytes with that *sha256*. *proved* once it has been restored."""

    path: Path
    size: int
    sha256: str
    proved: bool = False

    def intact(self) -> bool:
        """Whether the file still has the bytes that were written: they are read for it."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def key(
    *, emulator: Path, appliance: str, machine: dict[str, Any], connection: str, versions: list[str], profile: Profile
) -> str:
    """What a state belongs to: QEMU (*emulator*, by path, size and time), the *appliance*'s digest, the *machine*
    (memory, CPUs, devices), how it is started (*connection*, *versions* of the libraries that lay out the machine), the
    accelerator and its CPU model, this host's CPU, and this user."""
    there = emulator.resolve().stat()
    parts = {
        "version": VERSION,
        "emulator": [str(emulator.resolve()), there.st_size, there.st_mtime_ns],
        "appliance": appliance,
        "machine": machine,
        "connection": connection,
        "versions": versions,
        "profile": asdict(profile),
        "cpu": host_cpu(),
        "user": os.geteuid(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@functools.cache
def host_cpu() -> str:
    """This host's CPU: what it is called and what it can do (proc(5), the first processor of ``/proc/cpuinfo``)."""
    told = ("vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags")
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
    return "\n".join(line for line in first.splitlines() if line.split("\t")[0].strip() in told)


class Store:
    """The states in *directory*, one file each, with a JSON record beside it that is written last."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def find(self, key: str) -> State | None:
        """The state with *key*; None when there is none.

        :raises Doubt: there is one that must not be used
        """
        path, record = self._path(key, STATE), self._path(key, RECORD)
        try:
            for place in (self.directory, path, record):
                _require_private(place)
            known = safejson.loads(record.read_bytes())
            state = State(path, int(known["size"]), str(known["sha256"]), self._path(key, PROVED).exists())
            size = path.stat().st_size
            os.utime(path)  # used now
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Doubt(f"{record} cannot be read ({error})") from error
        if size != state.size:
            raise Doubt(f"{path} has {size} bytes, not {state.size}")
        return state

    def save(self, key: str, write: Callable[[IO[bytes]], str]) -> bool:
        """Keep what *write* writes into the file it is given (it returns the SHA-256 of that). False when another
        process is saving, or this state has been refused before.

        :raises OSError: it cannot be written; nothing is kept then
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with self._alone() as alone:
            if not alone or self._path(key, REFUSED).exists() or self._path(key, RECORD).exists():
                return False
            draft = self.directory / f"{DRAFT}{key}"
            try:
                draft.touch(mode=0o600)
                with draft.open("wb") as file:
                    known = {"sha256": write(file), "size": file.tell()}
                draft.rename(self._path(key, STATE))
                draft.touch(mode=0o600)
                draft.write_text(json.dumps(known), encoding="utf-8")
                draft.rename(self._path(key, RECORD))
            finally:
                draft.unlink(missing_ok=True)
        self.collect()
        return True

    def proved(self, key: str, state: State) -> None:
        """*state* has been restored and answers."""
        if not state.proved:
            with contextlib.suppress(OSError):  # only a mark
                self._path(key, PROVED).touch(mode=0o600)

    def discard(self, key: str, state: State | None, why: str) -> None:
        """Remove the state with *key*. One that has never worked is not made again: *why* is kept instead."""
        for suffix in (RECORD, STATE, PROVED):
            with contextlib.suppress(OSError):  # another user's, perhaps: it is looked at again the next time
                self._path(key, suffix).unlink()
        if state is not None and not state.proved:
            self.refuse(key, why)

    def refuse(self, key: str, why: str) -> None:
        """Make no state with *key* any more."""
        with contextlib.suppress(OSError):  # only a mark
            self._path(key, REFUSED).write_text(why, encoding="utf-8")

    def states(self) -> tuple[Path, ...]:
        """The files of all states, the least recently used first."""
        return tuple(path for path, _ in self._files())

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.directory.glob(f"*{STATE}"):
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                found.append((path, path.stat()))
        return sorted(found, key=lambda one: one[1].st_mtime)

    def refusals(self) -> tuple[str, ...]:
        """Why machines of some shapes are not saved."""
        return tuple(path.read_text(encoding="utf-8") for path in sorted(self.directory.glob(f"*{REFUSED}")))

    def collect(self, *, unused: float | None = None, dry_run: bool = False) -> int:
        """Remove states beyond :data:`KEPT` and :data:`MAX_BYTES`, and what killed processes left; with *unused* also
        those that were not used for so many seconds, and all refusals. Return the bytes. Does nothing while a process
        is saving."""
        if not self.directory.is_dir():
            return 0
        with self._alone() as alone:
            if not alone:
                return 0
            going = list(self.directory.glob(f"{DRAFT}*"))
            kept = room = 0
            for path, there in reversed(self._files()):
                kept, room = kept + 1, room + there.st_size
                old = unused is not None and time.time() - there.st_mtime >= unused
                if old or kept > KEPT or room > MAX_BYTES:
                    going += [path.with_suffix(suffix) for suffix in (RECORD, STATE, PROVED)]
            if unused is not None:
                going += self.directory.glob(f"*{REFUSED}")
            freed = 0
            for path in going:
                with contextlib.suppress(FileNotFoundError):
                    freed += path.stat().st_blocks * 512
                    if not dry_run:
                        path.unlink()
            return freed

    def has_room(self, wanted: int) -> bool:
        """Whether *wanted* bytes can be written there without filling the disk."""
        there = next(path for path in (self.directory, *self.directory.parents) if path.exists())
        return shutil.disk_usage(there).free > wanted + (512 << 20)

    def _path(self, key: str, suffix: str) -> Path:
        return self.directory / f"{key}{suffix}"

    @contextlib.contextmanager
    def _alone(self) -> Iterator[bool]:
        """Whether no other process changes the directory; the lock file stays."""
        descriptor = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(descriptor)


def _require_private(path: Path) -> None:
    """:raises Doubt: others own *path*, or may read or write it"""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise Doubt(f"{path} is not this user's alone")
