"""The door through which specs come in: what it lets in, and what it refuses without reading anything else."""

import os
import tracemalloc
from pathlib import Path

import pytest

from sfvm import document
from sfvm.errors import SpecError

HEAD = '<filesystem xmlns="urn:sfvm:1"'


def parse(directory: Path, text: str, name: str = "a.xml") -> document.Element:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return document.parse(path)


def refused(directory: Path, text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        parse(directory, text)
    return caught.value


def test_elements_know_text_children_and_places(tmp_path: Path) -> None:
    root = parse(tmp_path, f'{HEAD} name="é">\n  <run a="1">x<b/>y</run>\n</filesystem>')
    assert (root.tag, dict(root.attributes)) == ("filesystem", {"name": "é"})
    (run,) = root.children
    assert (run.text, run.place.line, run.place.column) == ("xy", 2, 3)
    assert [element.tag for element in root.iter()] == ["filesystem", "run", "b"]
    assert run.directory == tmp_path
    assert dict(run.variables) == {}


def test_the_place_of_an_attribute_on_another_line(tmp_path: Path) -> None:
    root = parse(tmp_path, f'{HEAD}\n  title=\'a="b" name="c"\'\n\tname = "x"/>')
    assert (root.place_of("name").line, root.place_of("name").column) == (3, 2)
    assert root.place_of("missing") == root.place
    root.place.path.unlink()
    assert root.place_of("name") == root.place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<a",
        f"{HEAD}><b></filesystem>",
        f"{HEAD} a='1' a='2'/>",
        f"{HEAD}>&nbsp;</filesystem>",
        f"{HEAD}>\x01</filesystem>",
    ],
)
def test_malformed_xml_is_an_error_with_a_place(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, text)
    assert error.what == "not well-formed XML"
    assert error.place is not None
    assert error.why


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="not well-formed"):
        document.parse(tmp_path / "a.xml", b"<a xmlns='urn:sfvm:1'>\xff\xfe</a>")


@pytest.mark.parametrize("encoding", ["ebcdic-foo", "rot13", "utf-7", "idna", "utf-32", "punycode"])
def test_a_strange_encoding(tmp_path: Path, encoding: str) -> None:
    error = refused(tmp_path, f'<?xml version="1.0" encoding="{encoding}"?>\n{HEAD}/>')
    assert error.what == "an encoding that is not understood"
    assert error.place is not None
    assert error.hint == "write it in UTF-8"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        document.parse(tmp_path / "none.xml")


def test_another_namespace(tmp_path: Path) -> None:
    error = refused(tmp_path, '<filesystem name="a"/>')
    assert "namespace" in error.what
    assert error.hint == 'write xmlns="urn:sfvm:1" on the root element'


def test_a_dtd_is_refused_where_it_stands(tmp_path: Path) -> None:
    error = refused(tmp_path, f'<?xml version="1.0"?>\n<!DOCTYPE filesystem>\n{HEAD}/>')
    assert "document type declaration" in error.what
    assert error.place is not None
    assert error.place.line == 2


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a SYSTEM "{0}">',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "{0}">]>',
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "{0}"> %x;]>',
    ],
)
def test_an_external_entity_is_never_opened(tmp_path: Path, declaration: str) -> None:
    trap = tmp_path / "trap"
    os.mkfifo(trap)  # whoever opens it to read waits for ever
    error = refused(tmp_path, f"{declaration.format(trap)}\n{HEAD}>&x;</filesystem>")
    assert "document type declaration" in error.what


def test_an_entity_bomb_costs_no_memory(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "ha">{entities}]>{HEAD}>&e11;</filesystem>'
    tracemalloc.start()
    try:
        error = refused(tmp_path, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert "document type declaration" in error.what
    assert peak < 4 << 20


def test_nesting_is_bounded(tmp_path: Path) -> None:
    depth = document.MAX_DEPTH - 1
    parse(tmp_path, f"{HEAD}>{'<a>' * depth}{'</a>' * depth}</filesystem>")
    depth = 200_000
    assert "nested deeper" in refused(tmp_path, f"{HEAD}>{'<a>' * depth}{'</a>' * depth}</filesystem>").what


def test_the_number_of_elements_is_bounded(tmp_path: Path) -> None:
    error = refused(tmp_path, f"{HEAD}>{'<a/>' * document.MAX_ELEMENTS}</filesystem>")
    assert str(document.MAX_ELEMENTS) in error.what


def test_the_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    with path.open("wb") as file:
        file.truncate(document.MAX_BYTES + 1)
    with pytest.raises(SpecError, match="larger than"):
        document.parse(path)


def test_xml_base_is_where_files_are_and_it_nests(tmp_path: Path) -> None:
    (tmp_path / "files/deep").mkdir(parents=True)
    (tmp_path / "files/deep/x").touch()
    root = parse(tmp_path, f'{HEAD} xml:base="files/"><a xml:base="deep"><copy from="x"/></a></filesystem>')
    (a,) = root.children
    assert a.directory == tmp_path / "files/deep"
    assert "xml:base" not in " ".join(a.attributes)
    assert a.children[0].file("from") == tmp_path / "files/deep/x"


@pytest.mark.parametrize("base", ["..", "/etc", "files/../..", "link"])
def test_xml_base_stays_below_the_spec(tmp_path: Path, base: str) -> None:
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "link").symlink_to(tmp_path)
    error = refused(specs, f'{HEAD}><a xml:base="{base}"/></filesystem>')
    assert "xml:base" in error.what
    assert "leaves the spec's directory" in error.what


@pytest.mark.parametrize("reference", ["../secret", "/etc/passwd", "link", "dir/../../secret", "linked/secret"])
def test_a_file_that_leaves_the_directory_is_refused(tmp_path: Path, reference: str) -> None:
    specs = tmp_path / "specs"
    (specs / "dir").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (specs / "link").symlink_to("../secret")
    (specs / "linked").symlink_to("..")
    element = parse(specs, f'{HEAD}><copy from="{reference}"/></filesystem>').children[0]
    with pytest.raises(SpecError, match="leaves the spec's directory") as caught:
        element.file("from")
    assert caught.value.place is not None
    assert caught.value.place.column == element.place.column + len("<copy ")


@pytest.mark.parametrize("reference", ["loop", "x" * 300, "a.xml/x"])
def test_a_file_that_cannot_be_followed(tmp_path: Path, reference: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    element = parse(tmp_path, f'{HEAD}><copy from="{reference}"/></filesystem>').children[0]
    with pytest.raises(SpecError, match=r"cannot be followed|does not exist"):
        element.file("from")


def test_a_missing_file_of_a_spec(tmp_path: Path) -> None:
    element = parse(tmp_path, f'{HEAD}><copy from="nothing"/></filesystem>').children[0]
    with pytest.raises(SpecError, match="does not exist"):
        element.file("from")


def test_flags_and_words(tmp_path: Path) -> None:
    element = parse(tmp_path, f'{HEAD} yes="yes" no="no" list=" a  b "/>')
    assert element.flag("yes") is True
    assert element.flag("no", True) is False
    assert element.flag("other", True) is True
    assert element.words("list") == ("a", "b")
    assert element.words("other") == ()
