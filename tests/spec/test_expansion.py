"""Expansion: what a spec comes to, and its bounds."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sfvm import document
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.spec import expansion, parser, schema
from sfvm.spec.model import Definition, Param

Write = Callable[[str, str], Path]
PLACE = Place(Path("a.xml"), 1)


def param(name: str, default: str | None = None, pattern: str | None = None, choices: tuple[str, ...] = ()) -> Param:
    return Param(name, default, pattern, choices, PLACE)


def definition(path: Path, arguments: Mapping[str, str] | None = None) -> Definition:
    return expansion.expand(parser.load(path), arguments or {}, {"distribution": "debian"})


def steps(path: Path, arguments: Mapping[str, str] | None = None) -> list[Element]:
    expanded = definition(path, arguments).expanded
    assert expanded is not None
    return [step for part in expanded.children if part.tag == "steps" for step in part.children]


def spec(inner: str, head: str = "") -> str:
    return f'<filesystem name="a" parent="b">{head}<steps>{inner}</steps></filesystem>'


def names(path: Path, arguments: Mapping[str, str] | None = None) -> list[str]:
    return [step.attributes["name"] for step in steps(path, arguments)]


def test_substitution() -> None:
    variables = {"a": "1", "b_2": "${a}"}
    assert expansion.substitute("x${a}y${b_2}$a$", variables, PLACE) == "x1y${a}$a$"
    assert expansion.substitute("$${a} $$${a}", variables, PLACE) == "${a} $${a}"


@pytest.mark.parametrize("text", ["${", "${}", "${a b}", "${a-b}", "x${a"])
def test_what_is_no_variable(text: str) -> None:
    with pytest.raises(SpecError, match="is not a variable"):
        expansion.substitute(text, {"a": "1"}, PLACE)


def test_an_undefined_variable_is_suggested() -> None:
    with pytest.raises(SpecError, match="undefined variable 'sit'") as caught:
        expansion.substitute("${sit}", {"site": "x"}, PLACE)
    assert caught.value.hint == "did you mean 'site'?"


def test_binding() -> None:
    declared = [param("a", "1"), param("b", "${a}${fact}"), param("c", choices=("x", "y"))]
    assert expansion.bind(declared, {"c": "y", "a": "2"}, PLACE, {"fact": "!"}) == {"a": "2", "b": "2!", "c": "y"}


@pytest.mark.parametrize(
    ("declared", "arguments", "message"),
    [
        (param("a"), {}, "needs a value"),
        (param("a", "1"), {"b": "2"}, "no param 'b'"),
        (param("a", pattern="[a-z]+"), {"a": "abc1"}, "cannot be 'abc1'"),
        (param("a", default="X", pattern="[a-z]+"), {}, "cannot be 'X'"),
        (param("a", choices=("x", "y")), {"a": "z"}, "cannot be 'z'"),
        (param("a"), {"a": "\x00"}, "character that XML does not have"),
        (param("a"), {"a": "x" * (expansion.MAX_VALUE + 1)}, "longer than"),
    ],
)
def test_binding_refuses(declared: Param, arguments: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        expansion.bind([declared], arguments, PLACE)


def test_attributes_always_text_only_where_it_says_so(write: Write) -> None:
    path = write(
        "a.xml",
        spec(
            '<file path="/${x}">${x} $${x}</file><file path="/b" expand="no">${x}</file><run>${x} $${x}</run>',
            '<param name="x" default="1"/>',
        ),
    )
    first, second, third = steps(path)
    assert (first.attributes["path"], first.text) == ("/1", "1 ${x}")
    assert second.text == "${x}"
    assert third.text == "${x} $${x}"
    assert third.variables["x"] == "1"
    assert third.variables["distribution"] == "debian"


def test_conditions_and_repetition(write: Write) -> None:
    path = write(
        "a.xml",
        spec(
            """<for each="u" in="${who} dave">
                 <if test="$u != 'bob'"><user name="${u}"/></if>
                 <choose><when test="$u = 'bob'"><user name="robert"/></when>
                         <when test="$u = 'bob'"><user name="never"/></when>
                         <otherwise><for each="i" in="1 2"><user name="${u}${i}"/></for></otherwise></choose>
               </for>""",
            '<param name="who" default="alice bob"/>',
        ),
    )
    assert names(path) == ["alice", "alice1", "alice2", "robert", "dave", "dave1", "dave2"]
    assert names(path, {"who": ""}) == ["dave", "dave1", "dave2"]


@pytest.mark.parametrize("change", ['<line text="x" state="${v}"/>', '<replace match="a" with="b" count="${v}"/>'])
def test_a_value_of_an_element_within_is_checked_again(write: Write, change: str) -> None:
    path = write("a.xml", spec(f'<edit path="/x">{change}</edit>', '<param name="v" default="Absent"/>'))
    with pytest.raises(SpecError):
        definition(path)


def test_a_value_is_checked_again_once_it_is_settled(write: Write) -> None:
    path = write("a.xml", spec('<file path="/x" mode="${m}"/>', '<param name="m"/>'))
    assert steps(path, {"m": "0600"})[0].attributes["mode"] == "0600"
    with pytest.raises(SpecError, match="mode='rw' is not an octal mode"):
        steps(path, {"m": "rw"})


def test_an_include_has_its_own_params_and_files(write: Write) -> None:
    write("common/keys", "k")
    write(
        "common/inner.xml",
        '<fragment><param name="n"/><steps><user name="inner-${n}"/><copy from="keys" to="/k"/></steps></fragment>',
    )
    write(
        "common/outer.xml",
        '<fragment><param name="n" default="none"/><steps><user name="outer-${n}-${distribution}"/>'
        '<include spec="inner.xml"><with name="n" value="${n}${n}"/></include></steps></fragment>',
    )
    path = write(
        "a.xml",
        spec(
            '<include spec="common/outer.xml"><with name="n" value="${x}"/></include><user name="end"/>',
            '<param name="x" default="1"/>',
        ),
    )
    outer, inner, copy, end = steps(path)
    assert [element.attributes.get("name") for element in (outer, inner, end)] == ["outer-1-debian", "inner-11", "end"]
    assert copy.file("from") == path.parent / "common/keys"
    assert "x" not in inner.variables


def test_an_include_is_found_in_the_library_directories(write: Write) -> None:
    shipped = write("shipped/common/a.xml", '<fragment><steps><user name="shipped"/></steps></fragment>')
    path = write("mine/a.xml", spec('<include spec="common/a.xml"/>'))
    expanded = expansion.expand(parser.load(path), {}, {}, library_dirs=[shipped.parent.parent])
    assert len(expanded.steps) == 1
    write("mine/common/a.xml", "<fragment><steps/></fragment>")
    assert expansion.expand(parser.load(path), {}, {}, library_dirs=[shipped.parent.parent]).steps == ()


def test_a_changed_fragment_is_read_again(write: Write) -> None:
    path = write("a.xml", spec('<include spec="f.xml"/>'))
    write("f.xml", '<fragment><steps><user name="one"/></steps></fragment>')
    assert names(path) == ["one"]
    write("f.xml", '<fragment><steps><user name="second"/></steps></fragment>')
    assert names(path) == ["second"]


def test_a_missing_include(write: Write) -> None:
    write("common/sshd.xml", "<fragment><steps/></fragment>")
    with pytest.raises(SpecError, match="there is no such file") as caught:
        steps(write("a.xml", spec('<include spec="common/sshdd.xml"/>')))
    assert caught.value.hint == "did you mean 'common/sshd.xml'?"
    assert caught.value.place is not None


@pytest.mark.parametrize("reference", ["../secret.xml", "link.xml", "{}/secret.xml"])
def test_an_include_that_leaves_the_spec_directories(write: Write, tmp_path: Path, reference: str) -> None:
    secret = write("../secret.xml", "<fragment><steps/></fragment>")
    path = write("a.xml", spec(f'<include spec="{reference.format(tmp_path)}"/>'))
    (path.parent / "link.xml").symlink_to(secret)
    with pytest.raises(SpecError, match="leaves the spec directories"):
        steps(path)


def test_an_include_cycle_shows_its_chain(write: Write) -> None:
    write("b.xml", '<fragment><steps>\n<include spec="c.xml"/></steps></fragment>')
    write("c.xml", '<fragment><steps>\n\n<include spec="b.xml"/></steps></fragment>')
    with pytest.raises(SpecError, match="include cycle") as caught:
        steps(write("a.xml", spec('<include spec="b.xml"/>')))
    assert caught.value.why is not None
    assert [part.split("includes ")[1] for part in caught.value.why.split("; ")] == ["b.xml", "c.xml", "b.xml"]
    assert "b.xml:2:1 includes c.xml; " in caught.value.why


def test_a_fragment_twice_is_no_cycle(write: Write) -> None:
    write("f.xml", '<fragment><steps><user name="x"/></steps></fragment>')
    assert names(write("a.xml", spec('<include spec="f.xml"/><include spec="f.xml"/>'))) == ["x", "x"]


def test_includes_are_bounded(write: Write) -> None:
    for i in range(60):
        write(f"f{i}.xml", f'<fragment><steps><include spec="f{i + 1}.xml"/></steps></fragment>')
    with pytest.raises(SpecError, match="nested deeper than 50"):
        steps(write("a.xml", spec('<include spec="f0.xml"/>')))


def test_a_value_that_doubles_with_every_include_is_bounded(write: Write) -> None:
    for i in range(49):
        write(
            f"f{i}.xml",
            '<fragment><param name="n"/><steps>'
            f'<include spec="f{i + 1}.xml"><with name="n" value="${{n}}${{n}}"/></include></steps></fragment>',
        )
    write("f49.xml", '<fragment><param name="n"/><steps/></fragment>')
    with pytest.raises(SpecError, match="grows beyond"):
        steps(write("a.xml", spec('<include spec="f0.xml"><with name="n" value="0123456789"/></include>')))


def test_deep_nesting_costs_no_stack(write: Write) -> None:
    depth = 90
    inner = '<if test="true()">' * depth + '<include spec="{}"/>' + "</if>" * depth
    for i in range(49):
        write(f"f{i}.xml", f"<fragment><steps>{inner.format(f'f{i + 1}.xml')}</steps></fragment>")
    write("f49.xml", '<fragment><steps><user name="bottom"/></steps></fragment>')
    assert names(write("a.xml", spec(inner.format("f0.xml")))) == ["bottom"]


@pytest.mark.parametrize("body", ['<user name="x"/>', ""])
def test_a_huge_for_is_bounded(write: Write, body: str) -> None:
    words = " ".join("x" * 1000)
    loops = "".join(f'<for each="v{i}" in="{words}">' for i in range(5))
    with pytest.raises(SpecError, match="expands to more than 100000 elements"):
        steps(write("a.xml", spec(loops + body + "</for>" * 5)))


def test_many_large_texts_are_bounded(write: Write) -> None:
    words = " ".join("x" * 1000)
    text = "y" * 100_000
    path = write("a.xml", spec(f'<for each="v" in="{words}"><file path="/x">{text}${{v}}</file></for>'))
    with pytest.raises(SpecError, match="million characters"):
        steps(path)


def test_a_root_has_a_base_a_disk_and_facts(write: Write) -> None:
    path = write(
        "r.xml",
        '<filesystem name="r"><param name="s" default="2"/><disk size="${s}G" format="xfs"/>'
        '<base><choose><when test="$s = 3"><empty/></when>'
        '<otherwise><mmdebstrap suite="bookworm"/></otherwise></choose></base>'
        '<steps><file path="/x">${release}</file></steps></filesystem>',
    )
    root = expansion.expand(parser.load(path), {}, {})
    assert root.base is not None
    assert root.base.element == "mmdebstrap"
    assert root.disk is not None
    assert (root.disk.size, root.disk.format) == (2 << 30, "xfs")
    assert root.facts["distribution"] == "debian"
    assert root.facts["release"] == "bookworm"
    assert root.facts["architecture"] == expansion.architecture()
    empty = expansion.expand(parser.load(path), {"s": "3"}, {})
    assert (empty.facts["distribution"], empty.facts["release"]) == ("", "")


def test_a_base_is_exactly_one(write: Write) -> None:
    path = write("r.xml", '<filesystem name="r"><base><if test="false()"><empty/></if></base></filesystem>')
    with pytest.raises(SpecError, match="one thing, not 0"):
        expansion.expand(parser.load(path), {}, {})


@pytest.mark.parametrize("size", ["0", "1K", "9999T", "0G"])
def test_a_disk_that_cannot_be(write: Write, size: str) -> None:
    path = write("r.xml", f'<filesystem name="r"><disk size="{size}"/><base><empty/></base></filesystem>')
    with pytest.raises(SpecError, match="is not a size"):
        expansion.expand(parser.load(path), {}, {})


DIGITS = "9" * 5000
"""A number that Python does not read: 4300 digits are the most."""


@pytest.mark.parametrize(
    "text",
    [
        f'<filesystem name="r"><disk size="{DIGITS}"/><base><empty/></base></filesystem>',
        spec(f'<run timeout="{DIGITS}">x</run>'),
        spec('<run timeout="${x}">x</run>', f'<param name="x" default="{DIGITS}"/>'),
        spec("", f'<param name="x" type="integer" default="{DIGITS}"/>'),
        spec("", f'<param name="x" type="size" default="{DIGITS}G"/>'),
    ],
)
def test_a_number_of_thousands_of_digits_is_none(write: Write, text: str) -> None:
    with pytest.raises(SpecError, match=r"cannot be|is not a"):
        definition(write("r.xml", text))


@pytest.mark.parametrize(
    ("attributes", "what"),
    [('size="10000001"', "no whole number of blocks"), ('size="1G" format="ext3"', "no filesystem of a node")],
)
def test_disks_that_no_node_has(write: Write, attributes: str, what: str) -> None:
    path = write("r.xml", f'<filesystem name="r"><disk {attributes}/><base><empty/></base></filesystem>')
    with pytest.raises(SpecError, match=what) as caught:
        definition(path)
    assert caught.value.place is not None


def test_formats_are_expanded_the_same_way(write: Write) -> None:
    write("f.xml", '<fragment><param name="d"/><requires driver="${d}"/></fragment>')
    path = write(
        "x.xml",
        """<format name="x" produces="raw"><summary>all</summary><param name="d" default="virtio"/>
           <if test="$d = 'virtio'"><requires driver="${d}"/></if>
           <include spec="f.xml"><with name="d" value="${d}2"/></include></format>""",
    )
    root = document.parse(path)
    schema.validate(root, "format")
    children = expansion.expand_children(root, expansion.bind(parser.params(root), {}, root.place))
    assert [child.tag for child in children] == ["summary", "requires", "requires"]
    assert [child.get("driver") for child in children[1:]] == ["virtio", "virtio2"]


def test_a_fragment_for_formats_has_no_steps(write: Write) -> None:
    write("f.xml", "<fragment><steps/></fragment>")
    root = document.parse(write("x.xml", '<format name="x"><include spec="f.xml"/></format>'))
    with pytest.raises(SpecError, match="unknown element 'steps' in fragment"):
        expansion.expand_children(root, {})
