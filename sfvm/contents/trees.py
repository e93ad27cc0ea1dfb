"""Nodes' filesystems, read in one appliance to which they are attached read-only."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sfvm.appliance import image as appliance_image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.config import Settings
from sfvm.contents import scripts
from sfvm.contents.entry import Entry, Paths
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Output
from sfvm.guest import CommandFailed
from sfvm.repository import Manifest, Repository

T = TypeVar("T")


@dataclass(frozen=True)
class Trees:
    """The filesystems of *nodes*, in the running *appliance*; *scratch* is a directory for what it has found."""

    nodes: Sequence[Manifest]
    appliance: Appliance
    scratch: Path

    def names(self, stamp: str) -> list[dict[bytes, bytes]]:
        """All names of each, with a stamp (see :mod:`sfvm.contents.scripts`)."""
        return [self._parsed(scripts.parse_names, found) for found, _ in self._run(scripts.names_script(stamp))]

    def names_and_changes(
        self, ranges: Iterable[tuple[int, int]]
    ) -> tuple[list[dict[bytes, bytes]], frozenset[bytes] | None]:
        """All names of both, stamped with their inodes, and the numbers of the inodes that differ. Both are ext4, and
        have changed in these byte *ranges* since their common ancestor; None where that does not tell."""
        self._upload("ranges", b"".join(b"%d %d\n" % span for span in ranges))
        devices = " ".join(map(self.appliance.device, range(len(self.nodes))))
        first = f"perl -e {shlex.quote(scripts.INODES)} /sysroot/ranges {devices} >/sysroot/0/more"
        found = self._run(scripts.names_script(scripts.INODE), first)
        ready, *numbers = found[0][1].split(b"\n")
        names = [self._parsed(scripts.parse_names, one) for one, _ in found]
        return names, frozenset(numbers[:-1]) if ready == b"ready" else None

    def entries(self, wanted: Iterable[bytes] | None = None) -> list[dict[bytes, Entry]]:
        """Each one's entries of the *wanted* names, as far as there are such; of all by default."""
        if wanted is None:
            outputs = self._run(scripts.EVERYTHING + scripts.ENTRIES_SCRIPT)
        elif names := self._want(wanted):
            outputs = self._run(names + scripts.ENTRIES_SCRIPT)
        else:
            return [{} for _ in self.nodes]
        return [
            scripts.with_xattrs(self._parsed(scripts.parse_details, one), self._parsed(scripts.parse_xattrs, more))
            for one, more in outputs
        ]

    def digests(self, wanted: Iterable[bytes]) -> list[dict[bytes, str]]:
        """The SHA-256 of regular files that all have."""
        if not (names := self._want(wanted)):
            return [{} for _ in self.nodes]
        return [self._parsed(scripts.parse_digests, found) for found, _ in self._run(names + scripts.DIGESTS_SCRIPT)]

    def contents(self, wanted: Sequence[bytes], entries: Sequence[Paths]) -> list[dict[bytes, bytes]]:
        """The contents of regular files that all have, small ones."""
        if not (names := self._want(wanted)):
            return [{} for _ in self.nodes]
        outputs = self._run(names + scripts.CONTENTS_SCRIPT)
        sizes = [[mine[path].size for path in wanted] for mine in entries]
        return [
            dict(zip(wanted, _cut(found, each), strict=True)) for (found, _), each in zip(outputs, sizes, strict=True)
        ]

    def _want(self, wanted: Iterable[bytes]) -> str:
        """Put names into the appliance; return what makes a script find them, or nothing when there are none."""
        content = scripts.wanted(wanted)
        if not content:
            return ""
        self._upload("wanted", content)
        return "wanted=/sysroot/wanted\n"

    def _run(self, script: str, first: str = "") -> list[list[bytes]]:
        """Run *script* on each filesystem, all at once where that is possible, and *first* before; return what each one
        has found, and found more."""
        kinds = [node.filesystem for node in self.nodes]
        places = " ".join(f"/sysroot/{number}/{name}" for number in range(len(kinds)) for name in ("found", "more"))
        lines = [f"truncate -s 0 {places}", first]
        lines += ["work() {", "here=/sysroot/$1", "mount -t $2 -o $3 $4 $here/tree", "cd $here/tree", script, "}"]
        for number, kind in enumerate(kinds):
            options = scripts.MOUNT.get(kind, "ro")
            call = f"work {number} {kind} {options} {self.appliance.device(number)}"
            if kinds.count("btrfs") > 1:
                lines += [f"({call})", f"umount /sysroot/{number}/tree"]
            else:
                lines += [f"{call} &", "jobs+=($!)"]
        # What is mounted is so in a namespace of the script, and ends with it.
        lines += ['for job in "${jobs[@]}"; do wait $job; done', f"stat -c %s {places} | xargs >/sysroot/found"]
        self._shell("\n".join([*lines, f"cat {places} >>/sysroot/found"]))
        sizes, _, content = self._download().partition(b"\n")
        outputs = list(_cut(content, map(int, sizes.split())))
        return [outputs[number : number + 2] for number in range(0, len(outputs), 2)]

    def _shell(self, script: str) -> None:
        try:
            self.appliance.run(script)
        except CommandFailed as error:
            raise self._unreadable(error.output) from error

    def _upload(self, name: str, content: bytes) -> None:
        path = self.scratch / "upload"
        path.write_bytes(content)
        self._transfer("upload", str(path), f"/{name}")

    def _download(self) -> bytes:
        path = self.scratch / "found"
        self._transfer("download", "/found", str(path))
        return path.read_bytes()

    def _transfer(self, how: str, source: str, target: str) -> None:
        try:
            getattr(self.appliance.handle, how)(source, target)
        except RuntimeError as error:
            raise self._unreadable([str(error)]) from error

    def _parsed(self, parse: Callable[[bytes], T], output: bytes) -> T:
        try:
            return parse(output)
        except ValueError as error:
            raise self._unreadable([str(error)]) from error

    def _unreadable(self, detail: Sequence[str]) -> ApplianceError:
        names = " and ".join(dict.fromkeys(node.name for node in self.nodes))
        return ApplianceError(f"{names} cannot be read in the appliance", detail=detail, hint="sfvm verify")


@contextmanager
def reading(
    nodes: Sequence[Manifest], repository: Repository, settings: Settings, listener: Listener
) -> Iterator[Trees]:
    """An appliance with the filesystems of *nodes*, which gc leaves alone meanwhile.

    :raises SfvmError: a node is not there, or the appliance cannot be started
    """
    name = nodes[0].name
    image = appliance_image.ensure(settings.cache, listener)
    with repository.lease([node.key for node in nodes]):
        drives = [Drive(repository.backing(node.key), readonly=True) for node in nodes]
        with (
            tempfile.TemporaryDirectory(dir=repository.temporary(), prefix="contents-") as scratch,
            launch(
                image,
                drives,
                Shape(settings.memory, settings.cpus_each(), network=False),
                settings,
                log=lambda line: listener(Output(name, line)),
                listener=listener,
                node=name,
            ) as appliance,
        ):
            # guestfsd reads and writes below /sysroot alone: in the appliance's memory.
            places = " ".join(f"/sysroot/{number}/tree" for number in range(len(nodes)))
            appliance.tool(f"mount -t tmpfs tmpfs /sysroot\nmkdir -p {places}")
            yield Trees(nodes, appliance, Path(scratch))


def _cut(content: bytes, sizes: Iterable[int]) -> Iterator[bytes]:
    """The pieces of *sizes* that follow each other in *content*."""
    position = 0
    for size in sizes:
        yield content[position : position + size]
        position += size
