"""Finding specs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfvm.errors import SpecError
from sfvm.spec.library import Library

Write = Callable[[str, str], Path]


def test_the_first_directory_wins(write: Write, tmp_path: Path) -> None:
    mine = write("mine/a.xml", '<filesystem name="a" parent="mine"/>')
    theirs = write("theirs/a.xml", '<filesystem name="a" parent="theirs"/>')
    write("theirs/b.xml", '<filesystem name="b" parent="a"/>')
    library = Library([mine.parent, tmp_path / "missing", theirs.parent])
    assert library.names() == ("a", "b")
    assert library.get("a").parent == "mine"
    assert library.get("a") is library.get("a")
    assert [spec.name for spec in library.all()] == ["a", "b"]


def test_a_missing_spec_is_suggested(write: Write) -> None:
    path = write("debian.xml", '<filesystem name="debian" parent="x"/>')
    with pytest.raises(SpecError, match="no spec 'debain'") as caught:
        Library([path.parent]).get("debain")
    assert caught.value.hint == "did you mean 'debian'?"


@pytest.mark.parametrize("name", ["../a", "/etc/a", "", "sub/a"])
def test_a_name_is_no_path(write: Write, name: str) -> None:
    write("a.xml", '<filesystem name="a" parent="x"/>')
    directory = write("sub/a.xml", '<filesystem name="a" parent="x"/>').parent
    with pytest.raises(SpecError, match="no spec"):
        Library([directory, directory.parent]).get(name)


def test_the_file_and_the_spec_have_one_name(write: Write) -> None:
    path = write("a.xml", '<filesystem name="b" parent="x"/>')
    with pytest.raises(SpecError, match=r"a\.xml is named 'b'"):
        Library([path.parent]).get("a")
