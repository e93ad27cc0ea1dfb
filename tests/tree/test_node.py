"""Nodes and keys: what counts, and what does not."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfvm import tree
from sfvm.errors import SpecError, UsageError
from sfvm.spec.library import Library

Write = Callable[[str, str], Path]
ROOT = '<filesystem name="r"><base><empty/></base></filesystem>'


def resolve(directory: Path, *names: str, **arguments: str) -> tuple[tree.Node, ...]:
    given = {name.replace("__", ":"): value for name, value in arguments.items()}
    return tree.resolve(Library([directory]), names, given)


def key(write: Write, text: str, **arguments: str) -> str:
    """The key of a child of the root with these steps."""
    directory = write("r.xml", ROOT).parent
    write("a.xml", f'<filesystem name="a" parent="r">{text}</filesystem>')
    return resolve(directory, "a", **arguments)[-1].key


def test_parents_come_first_each_once(write: Write) -> None:
    directory = write("r.xml", ROOT).parent
    for name, parent in {"a": "r", "b": "a", "c": "a"}.items():
        write(
            f"{name}.xml", f'<filesystem name="{name}" parent="{parent}"><steps><run>{name}</run></steps></filesystem>'
        )
    nodes = resolve(directory, "b", "c", "a")
    assert [node.name for node in nodes] == ["r", "a", "b", "c"]
    r, a, b, _ = nodes
    assert b.parent is a
    assert b.ancestors() == (r, a)
    assert b.chain == (r, a, b)
    assert [node.depth for node in nodes] == [0, 1, 2, 2]
    assert b.base_key == a.key == a.steps[-1].key
    assert len({node.key for node in nodes}) == 4


def test_a_node_without_steps_is_not_its_parent(write: Write) -> None:
    directory = write("r.xml", ROOT).parent
    write("a.xml", '<filesystem name="a" parent="r"/>')
    root, child = resolve(directory, "a")
    assert len({root.base_key, root.key, child.key}) == 3
    assert child.base_key == root.key


def test_step_keys_are_prefixes(write: Write) -> None:
    directory = write("r.xml", ROOT).parent
    write("a.xml", '<filesystem name="a" parent="r"><steps><run>1</run><run>2</run></steps></filesystem>')
    write("b.xml", '<filesystem name="b" parent="r"><steps><run>1</run><run>3</run></steps></filesystem>')
    _, a, b = resolve(directory, "a", "b")
    assert a.steps[0].key == b.steps[0].key
    assert a.steps[1].key != b.steps[1].key


def test_two_specs_that_expand_to_the_same_have_the_same_key(write: Write) -> None:
    plain = key(write, "<steps><user name='x'/><user name='y'/></steps>")
    write("f.xml", '<fragment><param name="n"/><steps><user name="${n}"/></steps></fragment>')
    clever = key(
        write,
        """<summary>clever</summary><param name="who" default="y"/><steps>
           <for each="u" in="x ${who}">
             <if test="$u"><include spec="f.xml"><with name="n" value="${u}"/></include></if>
           </for>
           </steps>""",
    )
    assert clever == plain


def test_params_count_only_through_what_they_change(write: Write) -> None:
    text = '<param name="p" default="1"/><param name="q" default="1"/><steps><file path="/x">${p}</file></steps>'
    assert key(write, text) == key(write, text, q="2")
    assert key(write, text) != key(write, text, p="2")


def test_a_script_sees_its_params_so_they_count(write: Write) -> None:
    text = '<param name="p" default="1"/><steps><run>true</run></steps>'
    assert key(write, text) != key(write, text, p="2")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<run>1</run>", "<run>2</run>"),
        ("<run>1</run><run>2</run>", "<run>2</run><run>1</run>"),
        ('<user name="a"/>', '<group name="a"/>'),
        ('<file path="/a"/>', '<file path="/a" mode="0600"/>'),
    ],
)
def test_what_steps_mean_counts(write: Write, one: str, other: str) -> None:
    assert key(write, f"<steps>{one}</steps>") != key(write, f"<steps>{other}</steps>")


def test_the_content_of_files_counts(write: Write) -> None:
    text = '<steps><copy from="site" to="/srv"/></steps>'
    page = write("site/index.html", "one")
    before = key(write, text)
    write("site/index.html", "two!")
    content = key(write, text)
    page.chmod(0o600)
    mode = key(write, text)
    page.rename(page.with_name("other.html"))
    assert len({before, content, mode, key(write, text)}) == 4


def test_the_disk_counts(write: Write) -> None:
    keys = set()
    for disk in ("", '<disk size="1G"/>', '<disk size="8G" format="xfs"/>', '<disk size="8192M" format="ext4"/>'):
        directory = write("r.xml", f'<filesystem name="r">{disk}<base><empty/></base></filesystem>').parent
        keys.add(resolve(directory, "r")[0].key)
    assert len(keys) == 3  # 8192M of ext4 is the default


def test_a_parents_change_reaches_every_descendant(write: Write) -> None:
    directory = write("r.xml", ROOT).parent
    for name, parent in {"a": "r", "b": "a"}.items():
        write(f"{name}.xml", f'<filesystem name="{name}" parent="{parent}"/>')
    before = resolve(directory, "b")
    write("r.xml", ROOT.replace("<base>", '<disk size="1G"/><base>'))
    after = resolve(directory, "b")
    assert all(old.key != new.key for old, new in zip(before, after, strict=True))


ELEMENTS: list[tuple[str, dict[str, str], str]] = [
    ("packages", {"install": "nginx curl"}, ""),
    ("file", {"path": "/etc/motd", "mode": "0644", "owner": "root:root"}, "Welcome\n"),
    ("user", {"name": "alice", "shell": "/bin/bash", "groups": "sudo"}, ""),
    ("run", {"network": "no", "cwd": "/srv"}, "nginx -t\n"),
]


@st.composite
def written(draw: st.DrawFn) -> str:
    """The same steps, formatted in any way."""
    space = st.text(" \t\n", min_size=1, max_size=4)
    between = st.one_of(st.just(""), space, st.just("<!-- a comment -->"), st.just("<?ignored by all?>"))
    text = draw(between)
    for tag, attributes, content in ELEMENTS:
        items = draw(st.permutations(sorted(attributes.items())))
        inner = "".join(
            f"{draw(space)}{name}{draw(st.sampled_from(['=', ' = ']))}{quoteattr(value)}" for name, value in items
        )
        inner += draw(st.sampled_from(["", " ", "\n"]))
        if content:
            text += f"<{tag}{inner}>{draw(st.sampled_from([content, f'<![CDATA[{content}]]>']))}</{tag}>"
        else:
            text += draw(st.sampled_from([f"<{tag}{inner}/>", f"<{tag}{inner}></{tag}>"]))
        text += draw(between)
    return text


@given(text=written(), summary=st.sampled_from(["", "<summary>other</summary>"]))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_formatting_comments_and_attribute_order_do_not_count(write: Write, text: str, summary: str) -> None:
    plain = "".join(
        f"<{tag} {' '.join(f'{name}={quoteattr(value)}' for name, value in attributes.items())}>{content}</{tag}>"
        for tag, attributes, content in ELEMENTS
    )
    assert key(write, f"{summary}<steps>{text}</steps>") == key(write, f"<steps>{plain}</steps>")


def test_a_cycle_of_parents(write: Write) -> None:
    for name, parent in {"a": "b", "b": "c", "c": "b"}.items():
        directory = write(f"{name}.xml", f'<filesystem name="{name}" parent="{parent}"/>').parent
    with pytest.raises(SpecError, match="a cycle of parents: b → c → b") as caught:
        resolve(directory, "a")
    assert caught.value.why is not None
    assert "c.xml:1:" in caught.value.why


def test_a_node_that_is_its_own_parent(write: Write) -> None:
    directory = write("a.xml", '<filesystem name="a" parent="a"/>').parent
    with pytest.raises(SpecError, match="a cycle of parents: a → a"):
        resolve(directory, "a")


def test_a_missing_parent_is_pointed_at(write: Write) -> None:
    write("debian.xml", ROOT.replace('"r"', '"debian"'))
    directory = write("a.xml", '<filesystem name="a"\n  parent="debain"/>').parent
    with pytest.raises(SpecError, match="no spec 'debain'") as caught:
        resolve(directory, "a")
    assert caught.value.hint == "did you mean 'debian'?"
    assert caught.value.place is not None
    assert (caught.value.place.line, caught.value.place.column) == (2, 3)


def test_arguments_reach_who_declares_them(write: Write) -> None:
    directory = write("r.xml", ROOT.replace("<base>", '<param name="p" default="0"/><base>')).parent
    write("a.xml", '<filesystem name="a" parent="r"><param name="p" default="0"/></filesystem>')
    write("b.xml", '<filesystem name="b" parent="a"/>')

    def values(arguments: Mapping[str, str]) -> list[dict[str, str]]:
        return [dict(node.definition.arguments) for node in tree.resolve(Library([directory]), ["b"], arguments)]

    assert values({"p": "1"}) == [{"p": "1"}, {"p": "1"}, {}]
    assert values({"r:p": "2", "p": "1"}) == [{"p": "2"}, {"p": "1"}, {}]


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("mirro", "did you mean 'mirror'?"),
        ("a:mirror", None),
        ("rr:mirror", "did you mean 'r'?"),
        ("r:miror", "did you mean 'mirror'?"),
    ],
)
def test_an_argument_for_nobody(write: Write, argument: str, hint: str | None) -> None:
    directory = write("r.xml", ROOT.replace("<base>", '<param name="mirror" default="0"/><base>')).parent
    write("a.xml", '<filesystem name="a" parent="r"/>')
    with pytest.raises(UsageError) as caught:
        tree.resolve(Library([directory]), ["a"], {argument: "x"})
    assert hint is None or caught.value.hint == hint


def test_facts_reach_descendants(write: Write) -> None:
    directory = write("r.xml", ROOT.replace("<empty/>", '<mmdebstrap suite="bookworm"/>')).parent
    write("a.xml", '<filesystem name="a" parent="r"/>')
    write(
        "b.xml",
        '<filesystem name="b" parent="a"><steps><file path="/x">${distribution} ${release}</file>'
        "<if test=\"$distribution = 'fedora'\"><run>never</run></if></steps></filesystem>",
    )
    *_, b = resolve(directory, "b")
    assert [step.element for step in b.steps] == ["file"]
    assert b.definition.facts["release"] == "bookworm"


def test_a_thousand_generations(write: Write) -> None:
    depth = max(1000, sys.getrecursionlimit() + 10)
    directory = write("n0.xml", ROOT.replace('"r"', '"n0"')).parent
    for i in range(1, depth):
        write(f"n{i}.xml", f'<filesystem name="n{i}" parent="n{i - 1}"/>')
    nodes = resolve(directory, f"n{depth - 1}")
    assert len({node.key for node in nodes}) == depth
    assert len(nodes[-1].ancestors()) == depth - 1
    assert nodes[-1].name in repr(nodes[-1])
    assert nodes[-1] in set(nodes)


def test_a_copy_source_outside_the_spec_has_a_place(write: Write) -> None:
    with pytest.raises(SpecError, match="leaves the spec's directory") as caught:
        key(write, "<steps>\n<copy from='../secret' to='/x'/></steps>")
    assert caught.value.place is not None
    assert caught.value.place.line == 2


def test_pins_are_in_the_key_and_in_those_of_descendants(write: Write) -> None:
    write("r.xml", ROOT)
    write("a.xml", '<filesystem name="a" parent="r"><steps><run>1</run></steps></filesystem>')
    library = Library([write("b.xml", '<filesystem name="b" parent="a"/>').parent])

    def keys(**pins: tree.Pin) -> list[str]:
        return [node.key for node in tree.resolve(library, ["b"], {}, pins)]

    plain = keys()
    assert keys(a=tree.Pin()) == keys(a=tree.Pin(contents={}, trial=True)) == plain
    refreshed, locked = keys(a=tree.Pin(refreshed="x")), keys(a=tree.Pin(lock="x"))
    assert refreshed[0] == locked[0] == plain[0]
    assert len({plain[1], refreshed[1], locked[1]}) == len({plain[2], refreshed[2], locked[2]}) == 3


def test_a_root_can_be_pinned(write: Write) -> None:
    library = Library([write("r.xml", ROOT).parent])
    (plain,), (pinned,) = (tree.resolve(library, ["r"], {}, pins) for pins in ({}, {"r": tree.Pin(refreshed="x")}))
    assert plain.base_key != pinned.base_key
    assert "pinned" not in plain.inputs
    assert pinned.inputs["pinned"] == {"refreshed": "x"}
