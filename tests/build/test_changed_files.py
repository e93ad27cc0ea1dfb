"""Files that change while a build runs, in an appliance that is stood in for."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sfvm import qcow2, tree
from sfvm.build import chain
from sfvm.cancellation import Cancellation
from sfvm.config import Settings
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.errors import StepError
from sfvm.repository import Repository
from sfvm.spec.library import Library

SPEC = """<filesystem xmlns="urn:sfvm:1" name="root">
  <disk size="64M" format="ext4"/>
  <base><archive src="base.tar" sha256="{}" distribution="debian" release="bookworm"/></base>
  <steps><copy from="first" to="/first"/><copy from="tree/" to="/tree"/></steps>
</filesystem>
"""
Change = Callable[[], object]


class Appliance:
    """It has a drive, and a guest that calls *reading* with what is uploaded."""

    accelerator, connection, restored = "none", "direct", False

    def __init__(self, tip: Path, reading: Callable[[str], None]) -> None:
        self.tip = tip
        self.guest = SimpleNamespace(
            upload=lambda source, to, **_: reading(to),
            upload_tree=lambda source, to, **_: reading(to),
            unpack=lambda source, to: reading(to),
            packages=tuple,
        )

    def checkpoint(self, overlay: Path) -> None:
        qcow2.create(overlay, backing=self.tip)
        self.tip = overlay

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Bench:
    """A spec next to its files, and builds of it. *changes*: what happens when a path of the guest is written."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.specs = home / "specs"
        (self.specs / "tree").mkdir(parents=True)
        for name in ("first", "tree/second"):
            (self.specs / name).write_text("old")
        self.base()
        self.repository = Repository(home / "repository")
        self.settings = Settings(self.repository.root, home / "cache")
        self.changes: dict[str, Change] = {}
        self.written: list[str] = []
        monkeypatch.setattr(chain, "launch", lambda image, drives, *_, **__: Appliance(drives[0].path, self.reading))

    def base(self, name: str = "old") -> None:
        archive = self.specs / "base.tar"
        with tarfile.open(archive, "w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        (self.specs / "root.xml").write_text(SPEC.format(digest))

    def reading(self, to: str) -> None:
        self.written.append(to)
        if to in self.changes:
            self.changes.pop(to)()

    def build(self) -> tree.Node:
        (node,) = tree.resolve(Library([self.specs]), ["root"], {})
        transfers = Transfers(Store(self.repository.downloads))
        image: Any = SimpleNamespace(digest="0" * 64)
        try:
            chain.ChainBuilder(
                (node,),
                self.repository,
                image,
                self.settings,
                lambda event: None,
                sealed=lambda key: None,
                stop=Cancellation(),
                transfers=transfers,
                policy=lambda node: Policy.of(self.settings),
            ).run()
        finally:
            transfers.close()
        return node


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_nothing_changes(bench: Bench) -> None:
    assert bench.repository.built(bench.build().key)
    assert bench.written == ["/", "/first", "/tree"]


@pytest.mark.parametrize(
    ("when", "what", "index", "written"),
    [
        ("/first", "first", 1, ["/", "/first"]),  # by the step that reads it, or before
        ("/", "first", 1, ["/"]),
        ("/first", "tree/second", 2, ["/", "/first"]),
        ("/tree", "tree/third", 2, ["/", "/first", "/tree"]),
        ("/", "base.tar", 0, ["/"]),
    ],
)
@pytest.mark.parametrize("gone", [False, True])
def test_what_has_changed_is_not_stored_as_what_it_was(
    bench: Bench, when: str, what: str, index: int, written: list[str], gone: bool
) -> None:
    path = bench.specs / what
    if gone and not path.exists():
        path.write_text("old")
    bench.changes[when] = path.unlink if gone else lambda: path.write_text("new")
    with pytest.raises(StepError, match="a file that it reads was changed while the node was being built") as error:
        bench.build()
    assert (f"step {index} of 2" if index else "base") in error.value.what
    assert (error.value.node, error.value.hint) == ("root", "run the same command again")
    assert error.value.place is not None
    assert bench.written == written
    assert bench.repository.built_keys() == frozenset()
    if what == "base.tar":
        bench.base("new")
    elif gone:
        path.write_text("again")
    bench.written.clear()
    assert bench.repository.built(bench.build().key)
    assert bench.written == ["/", "/first", "/tree"][index:]  # and what was done before counts
