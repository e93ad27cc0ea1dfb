"""Digests from one reading, with and without holes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sfvm.bundle.hashing import digests

MIB = 1 << 20


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [(0, 1)],
        [(0, 3 * MIB + 5)],
        [(5 * MIB, 100)],
        [(MIB, MIB), (7 * MIB, 3 * MIB)],
        [(4096, 4096), (12288, 10), (20 * MIB - 1, 1)],
    ],
    ids=str,
)
@pytest.mark.parametrize("tail", [0, 1, 3 * MIB + 1])
def test_holes_are_zeros(tmp_path: Path, pieces: list[tuple[int, int]], tail: int) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for offset, length in pieces:
            file.seek(offset)
            file.write(b"\xa5" * length)
        file.truncate(file.tell() + tail)
    told: list[float] = []
    found = digests(path, ("sha256", "md5"), told.append)
    content = path.read_bytes()
    assert found == {"sha256": hashlib.sha256(content).hexdigest(), "md5": hashlib.md5(content).hexdigest()}
    assert told == sorted(told)
    assert told[-1:] == ([1.0] if content else [])
    assert len(told) <= 100


def test_it_can_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(10 * MIB))

    def stop(fraction: float) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        digests(path, ("sha256",), stop)
