"""Lock files: written the same for the same lock, read with care."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm import document
from sfvm.errors import RepositoryError, SpecError, UsageError
from sfvm.guest import Package
from sfvm.lock import files
from sfvm.lock.model import Content, Lock, Section
from tests.lock.conftest import sha

URL = "http://mirror.test/a?b&c='d'"
LOCK = Lock(
    (
        Section("root", sha(1), {"mirror": '<"&\n>', "empty": ""}, ()),
        Section(
            "leaf",
            sha(2),
            {},
            (
                Content("http://mirror.test/b_1_all.deb", sha(3), 5, Package("b", "1:1", "all")),
                Content(URL, sha(4), 0),
                Content("http://mirror.test/a_2_all.deb", sha(3), 5, Package("a", "2", "all")),
            ),
        ),
    )
)


def meaning(lock: Lock) -> object:
    return [
        (section.node, section.key, dict(section.arguments), section.files, section.packages)
        for section in lock.sections
    ]


def parse(content: bytes | str) -> Lock:
    content = content.encode() if isinstance(content, str) else content
    return files.parse(document.parse(Path("some.lock.xml"), content))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "leaf.lock.xml"
    files.write(LOCK, path)
    assert meaning(files.read(path, "leaf")) == meaning(LOCK)
    assert [entry.name for entry in path.parent.iterdir()] == ["leaf.lock.xml"]
    assert path.read_bytes() == files.dump(LOCK)


def test_one_line_for_each_content_in_a_fixed_order() -> None:
    shuffled = Lock((LOCK.sections[0], Section("leaf", sha(2), {}, LOCK.sections[1].contents[::-1])))
    assert files.dump(shuffled) == files.dump(LOCK)
    lines = files.dump(LOCK).decode().splitlines()
    assert [line.split()[0] for line in lines[3:]] == [
        "<node", "<param", "<param", "</node>", "<node", "<file", "<package", "<package", "</node>", "</lock>",
    ]  # fmt: skip
    assert 'name="a"' in lines[-4]


@given(
    st.dictionaries(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1), st.text("a<&\"'"))
)
def test_any_argument_is_read_as_it_was(arguments: dict[str, str]) -> None:
    lock = Lock((Section("n", sha(0), arguments, ()),))
    assert parse(files.dump(lock)).sections[0].arguments == arguments


FILE = f'<file url="http://mirror.test/a" sha256="{sha(1)}" size="1"/>'


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<lock ", '<!DOCTYPE lock [<!ENTITY a SYSTEM "/etc/passwd">]><lock ', "document type"),
        ('version="1"', 'version="2"', "version '2'"),
        ('version="1"', 'version="1" more="1"', "'more' is missing or unknown"),
        ("<lock ", '<fragment xmlns="urn:sfvm:1"/><lock ', "not well-formed"),
        ("</lock>", "", "not well-formed"),
        (FILE, "<run/>", "<run> where <file>"),
        (FILE, FILE + FILE, "is there twice"),
        (FILE, FILE.replace(sha(1), sha(1)[1:]), "sha256="),
        (FILE, FILE.replace(sha(1), sha(0xABC).upper()), "sha256="),
        (FILE, FILE.replace("http://", "file://"), "url="),
        (FILE, FILE.replace("/a", "/a b"), "url="),
        (FILE, FILE.replace('size="1"', 'size="-1"'), "size="),
        (FILE, FILE.replace('size="1"', f'size="{"9" * 20}"'), "size="),
        (FILE, FILE.replace('size="1"', ""), "'size' is missing"),
        (FILE, FILE.replace("<file", '<package name="n"'), "is missing"),
        ('name="n"', 'name="../n"', "name="),
        ('name="n"', 'name="a/n"', "name="),
        ("</lock>", f'<node name="n" key="{sha(5)}"/></lock>', "twice"),
        (f'<node name="n" key="{sha(5)}">{FILE}</node>', "", "without a node"),
    ],
)
def test_malformed_and_hostile(old: str, new: str, says: str) -> None:
    good = f'<lock xmlns="urn:sfvm:1" version="1"><node name="n" key="{sha(5)}">{FILE}</node></lock>'
    assert parse(good).digests == {sha(1)}
    with pytest.raises(SpecError) as error:
        parse(good.replace(old, new, 1))
    assert says in error.value.what
    assert error.value.place and error.value.hint


def test_where_it_is(tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    assert files.path_of(own / "a.xml", shipped) == own / "a.lock.xml"
    assert files.path_of(shipped / "a.xml", shipped) == Path("a.lock.xml")
    assert files.path_of(shipped / "a.xml", shipped, own) == own / "a.lock.xml"


def test_none_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leaf is not locked") as error:
        files.read(tmp_path / "leaf.lock.xml", "leaf")
    assert error.value.hint == "sfvm lock leaf"


def test_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match="the lock cannot be written"):
        files.write(LOCK, tmp_path / "file" / "leaf.lock.xml")
