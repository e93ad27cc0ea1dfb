"""Layers, good and hostile, and what they come to."""

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from sfvm.archives import TooLarge
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.sources import layers as module
from sfvm.sources.layers import Refused, flatten
from tests.sources.layouts import Member, directory, file, hard, link, pack

Layers = list[list[Member]]


def flat(tmp_path: Path, layers: list[bytes], limit: int = 1 << 20, **more: Cancellation) -> Path:
    paths = [tmp_path / f"layer{number}" for number in range(len(layers))]
    for path, content in zip(paths, layers, strict=True):
        path.write_bytes(content)
    (tmp_path / "out").unlink(missing_ok=True)
    flatten(paths, tmp_path / "out", limit, **more)
    return tmp_path / "out"


def tree(tmp_path: Path, layers: Layers) -> dict[str, str]:
    """Names, and the content of files; "/" for directories, "-> TARGET" for symlinks, "= TARGET" for hard links."""
    found = {}
    with tarfile.open(flat(tmp_path, [pack(layer) for layer in layers])) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isreg() else None
            text = content.read().decode() if content is not None else "/"
            text = f"-> {member.linkname}" if member.issym() else f"= {member.linkname}" if member.islnk() else text
            assert member.name not in found, "once"
            found[member.name.removeprefix("./")] = text
    return found


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([[file("a", "1")], [file("a", "2")]], {"a": "2"}),
        ([[file("a", "1"), file("b", "1")], [file(".wh.a")]], {"b": "1"}),
        ([[directory("d"), file("d/a", "1"), file("d/b/c", "1")], [file(".wh.d")]], {}),
        ([[file("d/a", "1")], [file("d/.wh..wh..opq"), file("d/b", "2")]], {"d/b": "2"}),
        ([[file("d/a", "1")], [file("d/b", "2"), file("d/.wh..wh..opq")]], {"d/b": "2"}),
        ([[file("a", "1")], [file("a", "2"), file(".wh.a")]], {"a": "2"}),
        ([[file("a", "1")], [file(".wh.a")], [file("a", "3")]], {"a": "3"}),
        ([[file("d/a", "1")], [file("d", "2")]], {"d": "2"}),
        ([[file("d", "1")], [directory("d"), file("d/a", "2")]], {"d": "/", "d/a": "2"}),
        ([[directory("d"), file("d/a", "1")], [directory("d")]], {"d": "/", "d/a": "1"}),
        ([[link("l", "d"), file("d/a", "1")], [directory("l"), file("l/b", "2")]], {"l": "/", "l/b": "2", "d/a": "1"}),
        ([[link("bin", "usr/bin"), file("usr/bin/sh", "1")], [file("bin/ls", "2")]],
         {"bin": "-> usr/bin", "usr/bin/sh": "1", "usr/bin/ls": "2"}),
        ([[link("bin", "/usr/bin"), file("usr/bin/sh", "1")], [file("bin/.wh.sh")]], {"bin": "-> /usr/bin"}),
        ([[file("a", "1"), hard("b", "a")], [file("a", "2")]], {"a": "2", "b": "1"}),
        ([[file("a", "1"), hard("b", "a")], [file(".wh.a"), hard("c", "b")]], {"c": "1", "b": "= ./c"}),
        ([[link("s", "/x"), hard("t", "s")]], {"s": "= ./t", "t": "-> /x"}),
        ([[file("x/.wh.none"), file(".wh..wh.plnk"), file("a", "1")]], {"a": "1"}),
        ([[("dev/null", tarfile.CHRTYPE, ""), ("run/f", tarfile.FIFOTYPE, "")]], {"dev/null": "/", "run/f": "/"}),
        ([[directory("./"), file("./a", "1"), file("b//c", "2")]], {".": "/", "a": "1", "b/c": "2"}),
    ],
)  # fmt: skip
def test_what_layers_come_to(tmp_path: Path, layers: Layers, expected: dict[str, str]) -> None:
    assert tree(tmp_path, layers) == expected


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        # Through a symlink of a lower layer, as far as the root, and no farther.
        ([[link("up", "../../..")], [file("up/x", "1")]], {"up": "-> ../../..", "x": "1"}),
        ([[link("abs", "/etc")], [file("abs/passwd", "1")]], {"abs": "-> /etc", "etc/passwd": "1"}),
        ([[link("abs", "/")], [file("abs/.wh.abs")]], {}),
    ],
)  # fmt: skip
def test_symlinks_lead_where_they_would_in_the_guest(tmp_path: Path, layers: Layers, expected: dict[str, str]) -> None:
    assert tree(tmp_path, layers) == expected


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        ([[file("/etc/passwd")]], "it would be written outside"),
        ([[file("../x")]], "it would be written outside"),
        ([[file("a/../../x")]], "it would be written outside"),
        ([[file("../.wh.x")]], "it would be written outside"),
        ([[hard("a", "/etc/passwd")]], "is no file"),
        ([[hard("a", "../passwd")]], "is no file"),
        ([[hard("a", "missing")]], "is no file"),
        ([[directory("d"), hard("a", "d")]], "is no file"),
        ([[file("a", "1")], [file(".wh.a"), hard("b", "a")]], "is no file"),
        ([[file("a", "1")], [file("a/b")]], "its directory is none"),
        ([[link("a", "b"), link("b", "a")], [file("a/x")]], "its directory is none"),
        ([[("sda", tarfile.BLKTYPE, "")]], "it is a device"),
        ([[link("dev", "tmp")], [("dev/sda", tarfile.BLKTYPE, "")]], "it is a device"),
        ([[("dev/sda", tarfile.BLKTYPE, "")], [("x", tarfile.LNKTYPE, "dev/sda")]], "it is a device"),
        ([[file("a" * 5000)]], "outside"),
        ([[link("a", "b/" * 5000)]], "too long"),
    ],
)
def test_what_is_refused(tmp_path: Path, layers: Layers, why: str) -> None:
    with pytest.raises(Refused, match=why) as caught:
        tree(tmp_path, layers)
    assert f"of layer {len(layers)}" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_attributes_are_kept(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("ping")
        info.uid, info.gid, info.mode, info.mtime, info.uname = 12, 1 << 22, 0o4755, 1.5, "somebody"
        value = b"\1\0\0\2\0\xff\0".decode(errors="surrogateescape")
        info.pax_headers = {"SCHILY.xattr.security.capability": value, "path": "other", "comment": "x"}
        tar.addfile(info)
    with tarfile.open(flat(tmp_path, [stream.getvalue()])) as tar:
        (member,) = tar.getmembers()
    assert member.name == "./other", "the extended header counts"
    assert "comment" not in member.pax_headers
    assert (member.uid, member.gid, member.mode, member.mtime, member.uname) == (12, 1 << 22, 0o4755, 1.5, "")
    assert {"SCHILY.xattr.security.capability": value, "mtime": "1.5", "gid": str(1 << 22)}.items() >= (
        member.pax_headers.items() - {("hdrcharset", "BINARY")}
    )


class Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


def test_bombs(tmp_path: Path) -> None:
    """One large layer, and many that are large together."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        info = tarfile.TarInfo("zeros")
        info.size = 4 << 20
        tar.addfile(info, Zeros())
    assert len(stream.getvalue()) < 10_000
    with pytest.raises(TooLarge):
        flat(tmp_path, [stream.getvalue()], 3 << 20)
    other = pack([file("other", "x" * (2 << 20))])
    with pytest.raises(TooLarge, match="unpacks to more than 5 MiB"):
        flat(tmp_path, [stream.getvalue(), other], 5 << 20)
    assert flat(tmp_path, [stream.getvalue(), other, pack([file(".wh.zeros")])], 5 << 20).stat().st_size < 3 << 20


def test_a_sparse_member_is_as_large_as_it_says(tmp_path: Path) -> None:
    """A few bytes in the archive, and a terabyte of zeros for whoever writes them out."""
    stream = io.BytesIO()
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40)}
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("sparse")
        info.pax_headers = {**headers, "GNU.sparse.map": "0,0"}
        tar.addfile(info)
    with pytest.raises(TooLarge):
        flat(tmp_path, [stream.getvalue()])


def headed(members: int, **headers: str) -> bytes:
    """A layer of empty files with these extended headers."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as tar:
        for number in range(members):
            info = tarfile.TarInfo(f"f{number}")
            info.pax_headers = headers
            tar.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize("mtime", ["nan", "inf", "-inf", "1e400"])
def test_a_time_that_is_none(tmp_path: Path, mtime: str) -> None:
    with pytest.raises(Refused, match="member 'f0' of layer 1"):
        flat(tmp_path, [headed(1, mtime=mtime)])
    assert not (tmp_path / "out").exists()


def test_extended_headers_are_not_held(tmp_path: Path) -> None:
    layer = headed(40, comment="x" * 900_000)
    tracemalloc.start()
    try:
        flat(tmp_path, [layer], 64 << 20)
        assert tracemalloc.get_traced_memory()[1] < 15 << 20, "one of them, and copies of it"
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("members", "most"),
    [
        ([file(f"f{number}") for number in range(500)], 100_000),
        ([file(f"{number}/{'a/' * 500}f") for number in range(3)], 200_000),
        ([link("d", "a/" * 1000), *(file(f"d/{number}") for number in range(100))], 1_000_000),
    ],
)
def test_names_that_would_fill_the_memory(
    tmp_path: Path, members: list[Member], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as they are, as directories of their own, or as the paths that they come to."""
    assert flat(tmp_path, [pack(members)], 8 << 20).exists()
    monkeypatch.setattr(module, "MOST", most)
    with pytest.raises(Refused, match="too many names"):
        flat(tmp_path, [pack(members)], 8 << 20)


@pytest.mark.parametrize("content", [b"text", b"\x1f\x8bgarbage", b"\x28\xb5\x2f\xfdgarbage"])
def test_what_is_no_layer(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(Refused, match="layer 1 is no tar archive"):
        flat(tmp_path, [content])


def test_it_can_be_stopped(tmp_path: Path) -> None:
    stop = Cancellation()
    stop.cancel()
    with pytest.raises(Cancelled):
        flat(tmp_path, [pack([file("a")])], stop=stop)
