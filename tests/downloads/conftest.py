"""A mirror, and clients of the proxy that may reach it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sfvm.downloads.store import Draft, Store
from tests.downloads.servers import Client, Mirror, Network, serving


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serving() as known:
        yield known


@pytest.fixture(autouse=True)
def nothing_between(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "downloads")


@dataclass
class Writing:
    """The first block that is written to the store: it has *arrived*, and is written when *goes_on* is set."""

    arrived: threading.Event = field(default_factory=threading.Event)
    goes_on: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def writing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Writing]:
    held, write = Writing(), Draft.write

    def wait(draft: Draft, data: bytes) -> bool:
        held.arrived.set()
        assert held.goes_on.wait(30)
        return write(draft, data)

    monkeypatch.setattr(Draft, "write", wait)
    yield held
    held.goes_on.set()


@pytest.fixture
def network(store: Store, mirror: Mirror) -> Iterator[Network]:
    """Where the user has named the mirror."""
    with contextlib.ExitStack() as close:
        yield Network(store, lambda: frozenset({mirror.place}), close)


@pytest.fixture
def client(network: Network) -> Client:
    return network.client()


@pytest.fixture
def another(network: Network) -> Client:
    """Of another build, with the same cache."""
    return network.client()
