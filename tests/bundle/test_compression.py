"""Streams that all CPUs compress: what others read of them, and that nothing but the input decides what they are."""

from __future__ import annotations

import io
import lzma
import os
import random
import subprocess
import threading
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm.bundle import compression
from sfvm.bundle.compression import compressed

TOOLS = {"gzip": "gzip -dc", "xz": "xz -dc", "zstd": "zstd -dc"}
SEVERAL = {"gzip": 5 << 20, "xz": 1 << 20, "zstd": 20 << 20}
"""Bytes that several threads share."""
WORDS = [b"disk", b"image", b"filesystem", b"overlay", b"node", b"guest", b"sealed", b"repository", b"appliance"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """xz takes seconds for one of its own size."""
    monkeypatch.setattr(compression, "XZ_BLOCK", 256 << 10)


def content(size: int) -> bytes:
    """Text and noise, in turn."""
    dice, found = random.Random(size), bytearray()
    while len(found) < size:
        found += b" ".join(dice.choices(WORDS, k=20_000)) + dice.randbytes(50_000)
    return bytes(found[:size])


def packed(kind: str, data: bytes, step: int = 4 << 20) -> bytes:
    target = io.BytesIO()
    with compressed(kind, target) as sink:
        for start in range(0, len(data), step):
            sink.write(data[start : start + step])
    return target.getvalue()


@pytest.mark.parametrize("kind", TOOLS)
@pytest.mark.parametrize("size", [0, 1, (2 << 20) + 17])
def test_others_read_it(kind: str, size: int) -> None:
    data = content(size)
    done = subprocess.run(TOOLS[kind].split(), input=packed(kind, data), capture_output=True, check=True)
    assert done.stdout == data


def test_xz_has_a_level() -> None:
    data = content(3 << 20)
    buffer = io.BytesIO()
    with compression.compressed("xz", buffer, 0) as sink:
        sink.write(data)
    quick = buffer.getvalue()
    assert lzma.decompress(quick) == data
    assert len(quick) > len(packed("xz", data)), "or it would not be quicker"


@pytest.mark.parametrize("kind", TOOLS)
def test_the_number_of_cpus_does_not_matter(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = content(SEVERAL[kind])
    made = []
    for count in (1, 2, 5):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        made.append(packed(kind, data))
    assert made[0] == made[1] == made[2]
    assert len(made[0]) < len(data) / 2


@pytest.mark.parametrize("kind", TOOLS)
def test_the_size_of_writes_does_not_matter(kind: str) -> None:
    data = content(3 << 20)
    assert packed(kind, data, 4 << 20) == packed(kind, data, 99_991)


def test_gzip_is_one_member_without_name_and_time() -> None:
    made = packed("gzip", content(3 << 20))
    assert made[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    reader.decompress(made)
    assert reader.eof
    assert reader.unused_data == b""


def test_gzip_blocks_are_compressed_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    together, deflate = threading.Barrier(2), compression._deflate

    def meeting(block: bytes, window: bytes, last: bool) -> bytes:
        together.wait(60)
        return deflate(block, window, last)

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(compression, "_deflate", meeting)
    data = content((3 << 20) + 1)  # four blocks: two meetings
    assert zlib.decompress(packed("gzip", data), wbits=zlib.MAX_WBITS | 16) == data


@given(st.binary(max_size=600), st.integers(1, 64), st.integers(1, 32))
def test_any_cut_into_blocks_is_gzip(data: bytes, block: int, window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compression, "GZIP_BLOCK", block)
        patch.setattr(compression, "GZIP_WINDOW", window)
        made = packed("gzip", data, 37)
    assert zlib.decompress(made, wbits=zlib.MAX_WBITS | 16) == data


class Full(io.BytesIO):
    """A file on a disk that gets full."""

    def write(self, data: bytes) -> int:  # type: ignore[override]
        if self.tell() > 1 << 20:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.mark.parametrize("kind", TOOLS)
def test_a_full_disk_is_told(kind: str) -> None:
    noise = random.Random(1).randbytes(1 << 20)
    with pytest.raises(OSError, match="No space left"), compressed(kind, Full()) as sink:
        for _ in range(4 * SEVERAL[kind] >> 20):
            sink.write(noise)


@pytest.mark.parametrize("kind", TOOLS)
def test_given_up_it_ends(kind: str) -> None:
    with pytest.raises(ValueError, match="enough"), compressed(kind, io.BytesIO()) as sink:
        for _ in range(3):
            sink.write(content(1 << 20))
        raise ValueError("enough")
