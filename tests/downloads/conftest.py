"""A mirror, and clients of the proxy that may reach it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.downloads.store import Store
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
