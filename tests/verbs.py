"""Verbs as tests make them, and a guest that is a directory of the host."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from sfvm import document
from sfvm.cancellation import NEVER, Cancellation
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.errors import SpecError
from sfvm.events import ignore
from sfvm.guest import Command, Package
from sfvm.sources.fetch import fetch
from sfvm.verbs import Host, registry


@dataclass(frozen=True)
class Maker:
    """Parses elements that stand in the spec ``specs/spec.xml`` below *home*."""

    home: Path

    @property
    def specs(self) -> Path:
        return self.home / "specs"

    def __call__(self, xml: str, kind: str = "steps", **variables: str) -> Any:
        """The verb from its element, which stands in line 2."""
        self.specs.mkdir(exist_ok=True)
        path = self.specs / "spec.xml"
        path.write_text(f'<steps xmlns="urn:sfvm:1">\n{xml}\n</steps>\n', encoding="utf-8")
        (element,) = document.parse(path).children
        return registry(kind)[element.tag].parse(replace(element, variables=variables))

    def refused(self, xml: str, kind: str = "steps") -> SpecError:
        """The error of an element that is refused: it has a place in the spec, and says what to do."""
        with pytest.raises(SpecError) as caught:
            self(xml, kind).inputs()
        assert caught.value.place is not None
        assert caught.value.place.line >= 2
        assert caught.value.hint
        return caught.value


def host(
    work: Path, size: int = 1 << 30, architecture: str = "x86_64", stop: Cancellation = NEVER, **more: Any
) -> Host:
    """The host of a base, with everything in the directory *work*; *more* is a listener, or the policy's."""
    listener = more.pop("listener", ignore)
    access = Access(Transfers(Store(work / "downloads")), Policy(**more), stop, listener)
    return Host(work, size, architecture, access, listener)


@dataclass
class Directory:
    """A guest whose root is the host's directory *root*. Commands are only recorded, except that what runs in the
    appliance to look at the guest does look at it."""

    root: Path
    commands: list[Command] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)

    def at(self, path: str) -> Path:
        assert path.startswith("/")
        return self.root / path.lstrip("/")

    def run(self, command: Command) -> None:
        self.commands.append(command)

    def capture(self, command: Command) -> str:
        assert command.place == "appliance"
        script = command.script.replace("/sysroot", str(self.root))
        done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, check=True)
        return done.stdout

    def exists(self, path: str) -> bool:
        return self.at(path).exists() or self.at(path).is_symlink()

    def names(self, path: str) -> tuple[str, ...]:
        return tuple(sorted(child.name for child in self.at(path).iterdir())) if self.at(path).is_dir() else ()

    def read(self, path: str) -> bytes:
        return self.at(path).read_bytes()

    def write(self, path: str, content: bytes, *, mode: int = 0o644, owner: str = "root:root") -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.remove(path)
        self.at(path).write_bytes(content)
        self.at(path).chmod(mode)
        self.owners[path] = owner

    def directory(self, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        self.at(path).mkdir(parents=True, exist_ok=True)
        if mode is not None:
            self.at(path).chmod(mode)
        if owner is not None:
            self.owners[path] = owner

    def symlink(self, path: str, target: str) -> None:
        self.at(path).parent.mkdir(parents=True, exist_ok=True)
        self.remove(path)
        self.at(path).symlink_to(target)

    def remove(self, path: str) -> None:
        if self.at(path).is_dir() and not self.at(path).is_symlink():
            shutil.rmtree(self.at(path))
        else:
            self.at(path).unlink(missing_ok=True)

    def chmod(self, path: str, mode: int) -> None:
        self.at(path).chmod(mode)

    def chown(self, path: str, owner: str, *, recursive: bool = False) -> None:
        self.owners[path] = owner

    def upload(self, source: Path, path: str, *, mode: int | None = None, owner: str | None = None) -> None:
        bits = source.stat().st_mode & 0o7777 if mode is None else mode
        self.write(path, source.read_bytes(), mode=bits, owner=owner or "root:root")

    def upload_tree(self, source: Path, path: str, *, owner: str | None = None) -> None:
        shutil.copytree(source, self.at(path), symlinks=True, dirs_exist_ok=True)
        self.owners[path] = owner or "root:root"

    def unpack(self, archive: Path, path: str) -> None:
        self.directory(path)
        shutil.unpack_archive(archive, self.at(path), "tar")

    def download(self, path: str, target: BinaryIO) -> None:
        target.write(self.read(path))

    def fetch(self, url: str, sha256: str) -> Path:
        transfers = Transfers(Store(self.root.parent / "downloads"))
        try:
            return fetch(url, sha256, Access(transfers, self.policy))
        finally:
            transfers.close()

    def packages(self) -> Sequence[Package]:
        return ()
