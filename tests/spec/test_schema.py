"""The assembled schema and the messages about documents that do not fit it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from sfvm import document
from sfvm.errors import SfvmError, SpecError
from sfvm.repository.manifest import NAME
from sfvm.spec import schema
from sfvm.verbs import registry

Write = Callable[[str, str], Path]
BODY = '<filesystem name="a" parent="b">{}</filesystem>'


def refused(path: Path, kind: str = "filesystem") -> SpecError:
    with pytest.raises(SpecError) as caught:
        schema.validate(document.parse(path), kind)
    return caught.value


@pytest.mark.parametrize("kind", schema.KINDS)
def test_each_kind_is_relax_ng(kind: str) -> None:
    etree.RelaxNG(etree.fromstring(schema.assemble(kind)))


@pytest.mark.parametrize("kind", ["steps", "bases", "bundle"])
def test_every_verb_is_in_the_schema(kind: str) -> None:
    grammar = etree.fromstring(schema.assemble("format" if kind == "bundle" else "filesystem"))
    names = {element.get("name") for element in grammar.iter(f"{{{schema.RNG}}}element")}
    assert set(registry(kind)) <= names


def test_the_published_schema_judges_a_document_as_written(write: Write) -> None:
    """What editors do: the schema and the document, nothing of ours in between."""
    relaxng = etree.RelaxNG(etree.fromstring(schema.assemble("filesystem")))
    good = write("a.xml", BODY.format('<steps xml:base="x"><file path="${p}" mode="0644">x</file></steps>'))
    bad = write("b.xml", BODY.format('<steps><file path="/x" mode="rw">x</file></steps>'))
    assert relaxng.validate(etree.parse(good))
    assert not relaxng.validate(etree.parse(bad))


@pytest.mark.parametrize(
    ("name", "valid"), [("libstdc++", True), ("a" * 200, True), ("a" * 201, False), ("_a", False), ("a b", False)]
)
def test_a_node_is_called_what_the_repository_takes(name: str, valid: bool) -> None:
    relaxng = etree.RelaxNG(etree.fromstring(schema.assemble("filesystem")))
    spec = etree.fromstring(f'<filesystem xmlns="urn:sfvm:1" name="{name}" parent="b"/>')
    assert relaxng.validate(spec) == valid
    assert (NAME.fullmatch(name) is not None) == valid


def test_the_whole_language_is_valid(write: Write) -> None:
    path = write(
        "web.xml",
        """<filesystem name="web" parent="debian">
  <summary>nginx with our site</summary>
  <param name="site" default="example" pattern="[a-z.]+"/>
  <steps>
    <packages install="nginx curl"/>
    <copy from="site/" to="/srv/www" owner="www-data:www-data"/>
    <file path="/etc/motd" mode="0644">Welcome to ${site}
</file>
    <include spec="common/sshd.xml"><with name="port" value="22"/></include>
    <if test="$site = 'example'"><service enable="nginx"/></if>
    <for each="u" in="alice bob"><user name="${u}" shell="/bin/bash" groups="sudo"/></for>
    <choose><when test="true()"><run/></when><otherwise><run network="no">nginx -t</run></otherwise></choose>
  </steps>
</filesystem>""",
    )
    schema.validate(document.parse(path), "filesystem")


def test_a_misspelt_element(write: Write) -> None:
    error = refused(write("a.xml", BODY.format("\n  <steps><packagse install='x'/></steps>")))
    assert error.what == "unknown element 'packagse' in steps"
    assert error.hint == "did you mean 'packages'?"
    assert (error.place and (error.place.line, error.place.column)) == (2, 10)


def test_an_element_in_the_wrong_place(write: Write) -> None:
    assert refused(write("a.xml", BODY.format("<run>x</run>"))).hint == "run belongs in steps"


def test_a_misspelt_attribute_is_pointed_at(write: Write) -> None:
    error = refused(write("a.xml", BODY.format("<steps><packages instal='x'/></steps>")))
    assert error.what == "unknown attribute 'instal' of packages"
    assert error.hint == "did you mean 'install'?"
    rendered = error.render().splitlines()
    assert rendered[1][rendered[2].index("^") :].startswith("instal")


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("<steps><file mode='0644'/></steps>", "file lacks the attribute 'path'"),
        ("<steps><file path='/x' mode='0999'/></steps>", "file mode='0999' is not an octal mode such as 0644"),
        ("<steps><file path='/x' expand='maybe'/></steps>", "file expand='maybe' is not yes or no"),
        ("<steps>stray</steps>", "text is not allowed in steps"),
        ("<steps/><param name='x'/>", "param comes too late"),
        ("<steps/><steps/>", "a second steps"),
        ("<param name='a-b'/>", "param name='a-b' is not an identifier of letters, digits and _"),
        ("<disk size='1G'/>", "a filesystem with a parent has no disk: it begins as its parent ends"),
        ("<base><empty/></base>", "a filesystem with a parent has no base: it begins as its parent ends"),
        ("<steps><choose/></steps>", "choose is not valid here"),
        ("<steps xmlns:o='urn:other' o:mine='x'/>", "unknown attribute 'urn:other:mine' of steps"),
        ("<steps xml:lang='en'/>", "unknown attribute 'http://www.w3.org/XML/1998/namespace:lang' of steps"),
    ],
)
def test_what_is_wrong_is_said(write: Write, inner: str, message: str) -> None:
    error = refused(write("a.xml", BODY.format(inner)))
    assert error.what == message
    assert error.place is not None


def test_neither_parent_nor_base(write: Write) -> None:
    assert "neither a parent nor a base" in refused(write("a.xml", '<filesystem name="a"/>')).what


def test_another_root_element(write: Write) -> None:
    assert refused(write("a.xml", "<fragment><steps/></fragment>")).what == (
        "a filesystem is expected here, not 'fragment'"
    )


def test_relax_ng_errors_point_at_the_element(write: Write) -> None:
    error = refused(write("a.xml", BODY.format("<steps>\n<run>x</run>\n<if test='1'>\n <choose/></if></steps>")))
    assert error.place is not None
    assert error.place.line == 4


def test_a_broken_fragment_names_its_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        element = "broken"
        schema = '<element name="broken"><ref name="mod"/></element>'

    monkeypatch.setattr(schema, "registry", lambda _: {"broken": Broken})
    schema.assemble.cache_clear()
    try:
        with pytest.raises(SfvmError, match="'broken'") as caught:
            schema.assemble("fragment")
    finally:
        schema.assemble.cache_clear()
    assert caught.value.hint == "did you mean 'mode'?"
