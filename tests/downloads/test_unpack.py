"""Packages unpacked on the host: the same to dpkg-deb, and no way to make the host suffer."""

import contextlib
import io
import lzma
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from sfvm.downloads import unpack as module
from sfvm.downloads.exchange import Exchange, Unpacked
from sfvm.downloads.unpack import ALIGNMENT, MAGIC, NotUnpacked, unpack


def member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def package(data: bytes, suffix: str = ".xz", control: bytes = b"control") -> bytes:
    members = [("debian-binary", b"2.0\n"), ("control.tar.gz", control), (f"data.tar{suffix}", data)]
    return MAGIC + b"".join(member(name, content) for name, content in members)


def unpacked(content: bytes) -> bytes:
    result = bytearray()

    def put(offset: int, data: bytes) -> None:
        result.extend(bytes(max(0, offset + len(data) - len(result))))
        result[offset : offset + len(data)] = data

    length = unpack(io.BytesIO(content), put)
    assert length == len(result)
    assert length % ALIGNMENT == 0
    return bytes(result)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What dpkg-deb makes a package of."""
    tree = tmp_path_factory.mktemp("tree")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: some\nVersion: 1\nArchitecture: all\nMaintainer: me <me@invalid>\nDescription: some\n"
    )
    (tree / "usr").mkdir()
    (tree / "usr" / "zeros").write_bytes(bytes(3_000_000))
    (tree / "usr" / "text").write_text("text\n" * 5001)
    (tree / "usr" / "link").symlink_to("text")
    return tree


@pytest.mark.parametrize("compression", ["xz", "gzip", "zstd"])
def test_dpkg_finds_the_same_in_it(tree: Path, tmp_path: Path, compression: str) -> None:
    packed, plain = tmp_path / "packed.deb", tmp_path / "plain.deb"
    subprocess.run(["dpkg-deb", f"-Z{compression}", "--root-owner-group", "-b", tree, packed], check=True)
    plain.write_bytes(unpacked(packed.read_bytes()))
    assert plain.stat().st_size > 3_000_000

    def told(option: str, file: Path) -> bytes:
        return subprocess.run(["dpkg-deb", option, file], capture_output=True, check=True).stdout

    for option in ("--fsys-tarfile", "--ctrl-tarfile", "--field"):
        assert told(option, plain) == told(option, packed)
    with tarfile.open(fileobj=io.BytesIO(told("--fsys-tarfile", plain))) as content:
        assert content.getmember("./usr/zeros").size == 3_000_000


@pytest.mark.parametrize("size", [*range(ALIGNMENT * 2 - 70, ALIGNMENT * 2 + 70), 1, 1 << 21])
def test_every_size_is_padded(size: int) -> None:
    data = bytes(size)
    found = unpacked(package(lzma.compress(data)))
    start = found.index(b"data.tar ") + 60
    assert found[start : start + size] == data
    assert found[start - 12 : start - 2].decode().strip() == str(size)


ZSTD = zstandard.ZstdCompressor()
BAD = {
    "empty": b"",
    "no archive": b"something else" * 100,
    "no member": MAGIC,
    "half a header": MAGIC + b"debian-binary ",
    "a size that is no number": MAGIC + b"data.tar.xz".ljust(48) + b"many".ljust(10) + b"`\n",
    "a negative size": MAGIC + b"debian-binary".ljust(48) + b"-1".ljust(10) + b"`\n",
    "a size beyond the end": MAGIC + b"debian-binary".ljust(48) + b"9999999999" + b"`\n",
    "plain already": package(b"plain", ""),
    "an unknown compression": package(b"data", ".br"),
    "no xz": package(b"this is no xz"),
    "cut xz": package(lzma.compress(bytes(1000))[:-4]),
    "two streams": package(lzma.compress(b"a") * 2),
    "something after it": package(lzma.compress(b"a") + b"more"),
    "cut gzip": package(b"\x1f\x8b\x08\x00\x00\x00\x00\x00", ".gz"),
    "no zstd": package(b"this is no zstd", ".zst"),
    "cut zstd": package(ZSTD.compress(b"text" * 1000)[:-2], ".zst"),
    "two frames": package(ZSTD.compress(b"a") * 2, ".zst"),
    "many members": MAGIC + member("x", b"y") * 1000,
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_is_no_package_stays_as_it_is(content: bytes) -> None:
    with pytest.raises(NotUnpacked):
        unpacked(content)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 400), st.binary(max_size=6))
def test_damage_is_noticed_or_harmless(where: int, what: bytes) -> None:
    good = package(lzma.compress(b"content" * 100))
    with contextlib.suppress(NotUnpacked):
        unpacked(good[:where] + what + good[where + len(what) :])


@pytest.mark.parametrize(("suffix", "compress"), [(".xz", lzma.compress), (".zst", ZSTD.compress)])
def test_a_bomb(monkeypatch: pytest.MonkeyPatch, suffix: str, compress: object) -> None:
    monkeypatch.setattr(module, "MAX_SIZE", 10 << 20)
    assert callable(compress)
    bomb = package(compress(bytes(64 << 20)), suffix)
    assert len(bomb) < 1 << 20
    written: list[int] = []
    with pytest.raises(NotUnpacked, match="very large"):
        unpack(io.BytesIO(bomb), lambda offset, data: written.append(len(data)))
    assert sum(written) < 11 << 20


def test_memory_that_a_package_asks_for_is_bounded() -> None:
    huge = lzma.compress(b"a", filters=[{"id": lzma.FILTER_LZMA2, "preset": 1, "dict_size": 1 << 30}])
    with pytest.raises(NotUnpacked, match="damaged"):
        unpacked(package(huge))


def add(exchange: Exchange, directory: Path, name: str, content: bytes) -> None:
    (directory / name).write_bytes(content)
    exchange.add(name, directory / name)


def test_exchange(tmp_path: Path) -> None:
    exchange = Exchange(tmp_path / "exchange")
    for name in ("one", "two"):
        add(exchange, tmp_path, name, package(lzma.compress(name.encode() * 10_000)))
    add(exchange, tmp_path, "bad", b"no package")
    exchange.add("missing", tmp_path / "missing")
    one, two = exchange.find(["one", "bad", "never heard of", "missing", "two"])
    assert (one.sha256, two.sha256) == ("one", "two")
    assert one.offset == 0 and two.offset == one.length and two.offset % ALIGNMENT == 0
    with exchange.path.open("rb") as file:
        for place in (one, two):
            file.seek(place.offset)
            assert file.read(place.length) == unpacked((tmp_path / place.sha256).read_bytes())
    assert exchange.path.stat().st_blocks * 512 < 1 << 20, "it is sparse"
    assert exchange.path.stat().st_mode & 0o777 == 0o600
    exchange.close()
    assert not exchange.path.exists()


def test_a_full_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfvm.downloads.exchange.SIZE", 100_000)
    exchange = Exchange(tmp_path / "exchange")
    for name, size in (("first", 50_000), ("large", 60_000), ("last", 10_000)):
        add(exchange, tmp_path, name, package(lzma.compress(bytes(size))))
    found = exchange.find(["first", "large", "last"])
    assert found == [Unpacked("first", 0, 53_248), Unpacked("last", 53_248, 12_288)]
    exchange.close()
