"""Archives from outside: what unpacking them would write outside is refused, what real systems hold is not."""

import io
import tarfile
from pathlib import Path

import pytest
import zstandard

from sfvm import archives
from sfvm.errors import Place, SpecError

FILE, DIRECTORY, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Member = tuple[str, bytes] | tuple[str, bytes, str]
PLACE = Place(Path("spec.xml"), 3)


def pack(path: Path, *members: Member, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, kind, *target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target[0] if target else ""
            member.size = 5 if kind == FILE else 0
            tar.addfile(member, io.BytesIO(b"hello"))
    return path


def check(path: Path, limit: int = 1 << 20) -> None:
    archives.check(path, path.name, PLACE, limit)


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/passwd", FILE)],
        [("../x", FILE)],
        [("a/../../x", FILE)],
        [("..", DIRECTORY)],
        [("x", HARD, "/etc/passwd")],
        [("x", HARD, "../passwd")],
        [("a", LINK, "/etc"), ("a/passwd", FILE)],
        [("a", LINK, "../.."), ("a/passwd", FILE)],
        [("./a", LINK, "/etc"), ("a//passwd", FILE)],
        [("a", LINK, "/etc"), ("b", LINK, "a/x"), ("b/f", FILE)],
        [("d", DIRECTORY), ("d/l", LINK, "../.."), ("d/l/f", FILE)],
        [("a", LINK, "/etc"), ("x", HARD, "a/passwd")],
        [("a", LINK, "/etc"), ("b", HARD, "a"), ("b/f", FILE)],
        [("a", LINK, "/etc"), ("a", DIRECTORY), ("a/f", FILE)],
        [("a", LINK, "b"), ("b", LINK, "a"), ("a/f", FILE)],
    ],
)
def test_what_would_be_written_outside(tmp_path: Path, members: list[Member]) -> None:
    path = pack(tmp_path / "a.tar", *members)
    with pytest.raises(SpecError, match=r"a\.tar is refused: member") as caught:
        check(path)
    assert caught.value.place == PLACE
    assert repr(members[-1][0]) in caught.value.what


@pytest.mark.parametrize(
    "members",
    [
        [("./", DIRECTORY), ("./etc/", DIRECTORY), ("./etc/passwd", FILE)],
        [("etc/mtab", LINK, "/proc/mounts"), ("etc/passwd", FILE)],
        [("usr/bin", DIRECTORY), ("bin", LINK, "usr/bin"), ("bin/sh", FILE)],
        [("a/b", DIRECTORY), ("l", LINK, "a/b"), ("m", LINK, "l/../.."), ("m/f", FILE)],
        [("a", LINK, "/etc"), ("a", FILE)],
        [("a", LINK, "/etc"), ("x", FILE), ("a", FILE), ("b", HARD, "a")],
        [("a", FILE), ("b/c", HARD, "./a")],
        [("dir..name/..x", FILE)],
    ],
)
def test_what_real_systems_hold(tmp_path: Path, members: list[Member]) -> None:
    check(pack(tmp_path / "a.tar", *members))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_compression(tmp_path: Path, mode: str) -> None:
    check(pack(tmp_path / "a", ("x", FILE), mode=mode))
    with pytest.raises(SpecError, match="refused"):
        check(pack(tmp_path / "a", ("../x", FILE), mode=mode))


def test_zstd_with_several_frames(tmp_path: Path) -> None:
    """As parallel compressors write it: a bad member does not hide behind the first frame."""
    content = pack(tmp_path / "a", ("x", FILE), ("../x", FILE)).read_bytes()
    compressor = zstandard.ZstdCompressor()
    path = tmp_path / "a.tar.zst"
    path.write_bytes(compressor.compress(content[:600]) + compressor.compress(content[600:]))
    with pytest.raises(SpecError, match=r"member '../x'"):
        check(path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2", "zst"])
@pytest.mark.parametrize("damage", ["cut", "garbled"])
def test_damage_is_told(tmp_path: Path, mode: str, damage: str) -> None:
    path = pack(tmp_path / "a", *((f"{i}", FILE) for i in range(40)), mode=mode if mode != "zst" else "w")
    content = bytearray(path.read_bytes())
    if mode == "zst":
        content = bytearray(zstandard.ZstdCompressor().compress(bytes(content)))
    if damage == "cut":
        content = content[: min(len(content) // 2, 1024 + 100)]
    else:
        content[20:120] = b"\xa5" * 100
    path.write_bytes(content)
    with pytest.raises(SpecError, match="a is no tar archive, or damaged"):
        check(path)


def test_nothing_hides_behind_a_block_that_is_no_header(tmp_path: Path) -> None:
    """Where Python's tarfile stops reading, tar looks for the next header."""
    content = bytearray(pack(tmp_path / "a", ("x", FILE), ("y", FILE), ("../z", FILE)).read_bytes())
    content[1024:1536] = b"?" * 512
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(SpecError) as caught:
        check(tmp_path / "a")
    assert caught.value.why == "what follows the last member is no member"


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices(tmp_path: Path, kind: bytes) -> None:
    check(pack(tmp_path / "a.tar", ("./dev/null", kind), ("run/fifo", tarfile.FIFOTYPE)))
    for name in ("null", "tmp/dev/sda", "devices/x"):
        with pytest.raises(SpecError, match="it is a device") as caught:
            check(pack(tmp_path / "a.tar", (name, kind)))
        assert caught.value.what == f"a.tar is refused: member {name!r}"


def test_a_hard_link_to_a_device_is_one(tmp_path: Path) -> None:
    device, link = ("dev/sda", tarfile.BLKTYPE), ("dev/disk", HARD, "dev/sda")
    check(pack(tmp_path / "a.tar", device, link))
    check(pack(tmp_path / "a.tar", device, ("dev/sda", FILE), ("x", HARD, "dev/sda")))
    for members in ([("x", HARD, "dev/sda")], [link, ("x", HARD, "dev/disk")]):
        with pytest.raises(SpecError, match="member 'x'") as caught:
            check(pack(tmp_path / "a.tar", device, *members))
        assert caught.value.why == "it is a device, and not below dev"


class Zeros(io.RawIOBase):
    """So many zeros."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        found = bytes(min(size, self.left))
        self.left -= len(found)
        return found


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        member = tarfile.TarInfo("zeros")
        member.size = 8 << 20
        tar.addfile(member, Zeros(member.size))
    assert path.stat().st_size < 100_000
    with pytest.raises(SpecError, match="a is refused: it unpacks to more than 4 MiB"):
        check(path, 4 << 20)
    check(path, 9 << 20)


def test_a_member_that_claims_more_than_there_is_room_for(tmp_path: Path) -> None:
    member = tarfile.TarInfo("large")
    member.size = 1 << 60
    (tmp_path / "a").write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(SpecError, match="it unpacks to more than 1 MiB"):
        check(tmp_path / "a")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_would_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, 1 << 40
    (tmp_path / "a").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(SpecError) as caught:
        check(tmp_path / "a", 1 << 50)
    assert caught.value.why == f"a header of {1 << 40} bytes"


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.size": "abc"},
        {"GNU.sparse.map": "1,a"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "-1"},
        {"size": "-5"},
    ],
)
def test_extended_headers_that_are_none(tmp_path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "a", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("sparse")
        member.size, member.pax_headers = 512, headers
        content = b"0\n" if "GNU.sparse.realsize" in headers else b"no map\n"
        tar.addfile(member, io.BytesIO(content.ljust(512, b"\0")))
    with pytest.raises(SpecError, match="a is no tar archive, or damaged"):
        check(tmp_path / "a")


def test_extended_headers_of_extended_headers(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 512
    (tmp_path / "a").write_bytes((header.tobuf() + b"6 a=b\n".ljust(512, b"\0")) * 3000)
    with pytest.raises(SpecError, match="a is no tar archive, or damaged"):
        check(tmp_path / "a", 1 << 30)


@pytest.mark.parametrize("before", [[], [("first", FILE)]], ids=["first", "later"])
def test_a_map_of_very_many_holes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: list[Member]) -> None:
    """It lies where content would, and is held in memory. Contents may be of any size, and so may what is between."""
    monkeypatch.setattr(archives, "MAX_HEADERS", 64 << 10)
    with tarfile.open(pack(tmp_path / "a", *before), "a") as tar:
        large = tarfile.TarInfo("large")
        large.size = 1 << 20
        tar.addfile(large, io.BytesIO(bytes(large.size)))
    check(tmp_path / "a", 4 << 20)
    holes = 40_000
    with tarfile.open(tmp_path / "b", "w", format=tarfile.PAX_FORMAT) as tar:
        if before:
            tar.addfile(large, io.BytesIO(bytes(large.size)))
        member = tarfile.TarInfo("sparse")
        content = f"{holes}\n".encode() + b"0\n0\n" * holes
        content += bytes(-len(content) % 512)
        member.size = len(content)
        member.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(SpecError) as caught:
        check(tmp_path / "b", 4 << 20)
    assert caught.value.why == "headers of more than 65536 bytes"


def test_very_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    check(pack(tmp_path / "a", *((f"{i}", FILE) for i in range(3))))
    with pytest.raises(SpecError, match="more than 3 members"):
        check(pack(tmp_path / "a", *((f"{i}", FILE) for i in range(4))))


def test_no_archive_at_all(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    with pytest.raises(SpecError, match="a is no tar archive, or damaged"):
        check(tmp_path / "a")
