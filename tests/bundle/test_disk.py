"""A disk whose parts stay files of their own until a format wants them."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from sfvm import qcow2
from sfvm.bundle.disk.disk import Disk, Piece

MIB = 1 << 20
AROUND, INSIDE = b"around" * 1000, b"inside" * 50_000


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """8 MiB, of which 4 from the third on are a part with some data."""
    plain, source, frame = tmp_path / "plain", tmp_path / "a,part.qcow2", tmp_path / "a,frame"
    for path, size, at, content in ((plain, 4, 5000, INSIDE), (frame, 8, 0, AROUND)):
        with path.open("xb") as file:
            file.truncate(size * MIB)
            file.seek(at)
            file.write(content)
    qcow2.qemu_img("convert", "-f", "raw", "-O", "qcow2", plain, source)
    return Disk(frame, (Piece(source, 2 * MIB, 4 * MIB),))


WHOLE = AROUND.ljust(2 * MIB + 5000, b"\0") + INSIDE
WHOLE = WHOLE.ljust(8 * MIB, b"\0")


def ignore(fraction: float) -> None:
    pass


def content(image: Path) -> bytes:
    """What is in an image of any format."""
    raw = image.with_name(f"{image.name}.raw")
    qcow2.qemu_img("convert", "-O", "raw", image, raw)
    return raw.read_bytes()


@pytest.mark.parametrize(
    ("to", "options", "composed"),
    [("qcow2", [], False), ("qcow2", ["-c"], True), ("vmdk", ["-o", "subformat=streamOptimized"], True)],
)
def test_every_format_has_the_parts_in_their_places(
    disk: Disk, tmp_path: Path, to: str, options: list[str], composed: bool
) -> None:
    target = tmp_path / "b,target"
    disk.convert(target, to, *options, progress=ignore)
    assert (disk.pieces == ()) is composed  # else nothing was copied but into the target
    assert content(target) == WHOLE
    assert disk.raw(ignore).read_bytes() == WHOLE
    again = tmp_path / "again"
    disk.convert(again, to, *options, progress=ignore)
    assert content(again) == WHOLE


def test_formats_may_want_it_at_once(disk: Disk, tmp_path: Path) -> None:
    targets = [tmp_path / f"{number}.qcow2" for number in range(4)]
    threads = [
        threading.Thread(target=disk.convert, args=(target, "qcow2"), kwargs={"progress": ignore}) for target in targets
    ]
    threads.insert(2, threading.Thread(target=disk.raw, args=(ignore,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [content(target) for target in targets] == [WHOLE] * 4


def test_the_bytes_do_not_depend_on_who_came_first(disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, second = tmp_path / "first.qcow2", tmp_path / "second.qcow2"
    disk.convert(first, "qcow2", progress=ignore)
    disk.raw(ignore)
    disk.convert(second, "qcow2", progress=ignore)
    assert first.read_bytes() == second.read_bytes()
