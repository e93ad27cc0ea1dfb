"""Why a node is built again."""

import difflib
from collections.abc import Callable
from pathlib import Path

import pytest

from sfvm import tree
from sfvm.spec.library import Library

Write = Callable[[str, str], Path]
ROOT = '<filesystem name="r"><disk size="{}"/><base><empty/></base><steps>{}</steps></filesystem>'
WEB = """<filesystem name="web" parent="r"><param name="site" default="a"/><steps>
{}</steps></filesystem>"""


@pytest.fixture
def why(write: Write) -> Callable[..., list[str]]:
    """The texts of the differences between two versions of the steps of ``web``."""

    def why(
        before: str, after: str, *, root: tuple[str, str] = ("", ""), disk: str = "1G", **arguments: str
    ) -> list[str]:
        directory = write("r.xml", ROOT.format("1G", root[0])).parent
        write("web.xml", WEB.format(before))
        first = tree.resolve(Library([directory]), ["web"], {})
        known = {node.key: node.inputs for node in first}
        write("r.xml", ROOT.format(disk, root[1]))
        write("web.xml", WEB.format(after))
        second = tree.resolve(Library([directory]), ["web"], arguments)[-1]
        return [difference.text for difference in tree.explain(second, first[-1].inputs, known.get)]

    return why


Why = Callable[..., list[str]]


def test_nothing(why: Why) -> None:
    assert why("<run>x</run>", "<!-- --><run>x</run>") == []
    assert why('<user name="x"/>', '<user name="x"/>', site="b") == []


def test_never_built(write: Write) -> None:
    directory = write("r.xml", ROOT.format("1G", "")).parent
    (node,) = tree.resolve(Library([directory]), ["r"], {})
    assert [difference.text for difference in tree.explain(node, None)] == ["never built"]


def test_a_script(why: Why) -> None:
    (text,) = why("<run>one\ntwo\nthree\n</run>", "<run>one\n2\nthree\n</run>")
    first, *diff = text.splitlines()
    assert first == "step 1 run (web.xml:2:1): script changed"
    assert diff == ["  @@ -1,3 +1,3 @@", "   one", "  -two", "  +2", "   three"]


def test_an_attribute(why: Why) -> None:
    (text,) = why('<packages install="a"/>', '<packages install="a b"/>')
    assert text == "step 1 packages (web.xml:2:1): install: 'a' → 'a b'"


def test_a_step_added_removed_and_moved(why: Why) -> None:
    a, b, c = '<user name="a"/>', '<group name="b"/>', '<directory path="/c"/>'
    (added,) = why(a + c, a + b + c)
    assert added.startswith("step 2 group (web.xml:2:17): step added: ")
    (removed,) = why(a + b + c, a + c)
    assert removed.startswith("step 2 group (web.xml:2:17): step removed: ")
    (moved,) = why(a + b + c, b + c + a)
    assert moved == "step 3 user (web.xml:2:40): step moved from 1 to 3"


def test_a_file_of_a_tree(write: Write) -> None:
    page = write("site/pages/index.html", "one")
    write("site/same", "x")
    step = '<copy from="site" to="/srv"/>'
    directory = write("r.xml", ROOT.format("1G", "")).parent
    write("web.xml", WEB.format(step))
    before = tree.resolve(Library([directory]), ["web"], {})[-1]

    def texts() -> list[str]:
        after = tree.resolve(Library([directory]), ["web"], {})[-1]
        return [difference.text for difference in tree.explain(after, before.inputs)]

    write("site/pages/index.html", "other")
    assert texts() == ["step 1 copy (web.xml:2:1): file pages/index.html: content changed"]
    page.chmod(0o600)
    assert texts() == ["step 1 copy (web.xml:2:1): file pages/index.html: mode and content changed"]
    page.unlink()
    write("site/new", "x")
    assert texts() == [
        "step 1 copy (web.xml:2:1): file new: added",
        "step 1 copy (web.xml:2:1): file pages/index.html: removed",
    ]


def test_many_long_steps_that_one_param_changes(why: Why, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared with each of the others: what takes quadratic time for a pair takes minutes for all."""
    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", lambda self: pytest.fail("too slow"))
    words = [" ".join(f"{number}-{index:03}" for index in range(600)) for number in range(40)]
    steps = "".join(f"<run>echo ${{site}} {text}</run>" for text in words)
    param, *changed = why(steps, steps, site="b")
    assert param == "param site: 'a' → 'b'"
    assert [text.split(" ")[1] for text in changed] == [str(number) for number in range(1, 41)]
    assert {text.split(": ", 1)[1] for text in changed} == {"environment site: 'a' → 'b'"}


def test_the_most_alike_are_paired(why: Why) -> None:
    """Not the first that comes."""
    added, changed = why("<run>apt update</run>", "<run>make all</run><run>apt upgrade</run>")
    assert "step added" in added
    assert changed.endswith(r"script: 'apt update\n' → 'apt upgrade\n'")


def test_a_param(why: Why) -> None:
    texts = why('<file path="/x">${site}</file>', '<file path="/x">${site}</file>', site="b")
    assert texts[0] == "param site: 'a' → 'b'"
    assert len(texts) == 2


def test_an_ancestors_step(why: Why) -> None:
    step = '<user name="x"/>'
    (text,) = why(step, step, root=('<packages install="a"/>', '<packages install="a b"/>'))
    assert text.startswith("ancestor r: step 1 packages (r.xml:1:")
    assert text.endswith(": install: 'a' → 'a b'")


def test_an_ancestors_disk(why: Why) -> None:
    (text,) = why("", "", disk="2G")
    assert text == f"ancestor r: disk size: {1 << 30} → {2 << 30}"


def test_a_forgotten_ancestor(write: Write) -> None:
    directory = write("r.xml", ROOT.format("1G", "")).parent
    write("web.xml", WEB.format(""))
    before = tree.resolve(Library([directory]), ["web"], {})[-1]
    write("r.xml", ROOT.format("2G", ""))
    after = tree.resolve(Library([directory]), ["web"], {})[-1]
    (difference,) = tree.explain(after, before.inputs)
    assert difference.text == "parent r: changed"
    assert difference.inherited
    assert (difference.before, difference.after) == (before.base_key, after.base_key)


def test_another_parent(write: Write) -> None:
    directory = write("r.xml", ROOT.format("1G", "")).parent
    write("s.xml", ROOT.format("2G", "").replace('"r"', '"s"'))
    write("web.xml", WEB.format(""))
    before = tree.resolve(Library([directory]), ["web"], {})[-1]
    write("web.xml", WEB.format("").replace('parent="r"', 'parent="s"'))
    after = tree.resolve(Library([directory]), ["web"], {})[-1]
    assert [difference.text for difference in tree.explain(after, before.inputs)] == ["parent: 'r' → 's'"]


def test_a_thousand_changed_ancestors(write: Write) -> None:
    directory = write("n0.xml", ROOT.format("1G", "").replace('"r"', '"n0"')).parent
    for i in range(1, 1000):
        write(f"n{i}.xml", f'<filesystem name="n{i}" parent="n{i - 1}"/>')
    before = tree.resolve(Library([directory]), ["n999"], {})
    write("n0.xml", ROOT.format("2G", "").replace('"r"', '"n0"'))
    after = tree.resolve(Library([directory]), ["n999"], {})
    texts = [d.text for d in tree.explain(after[-1], before[-1].inputs, {n.key: n.inputs for n in before}.get)]
    assert texts == [f"ancestor n0: disk size: {1 << 30} → {2 << 30}"]


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (tree.Pin(), tree.Pin(refreshed="2026"), "refreshed on purpose, 2026"),
        (tree.Pin(refreshed="2025"), tree.Pin(refreshed="2026"), "refreshed on purpose, 2026"),
        (tree.Pin(refreshed="2025"), tree.Pin(), "the refresh of 2025 does not count any more"),
        (tree.Pin(), tree.Pin(lock="a"), "locked"),
        (tree.Pin(lock="a"), tree.Pin(lock="b"), "built from another lock"),
        (tree.Pin(lock="a"), tree.Pin(), "not locked any more"),
    ],
)
def test_pins(write: Write, before: tree.Pin, after: tree.Pin, text: str) -> None:
    library = Library([write("r.xml", ROOT.format("1G", "")).parent])
    write("web.xml", WEB.format(""))
    first, second = (tree.resolve(library, ["web"], {}, {"r": pin}) for pin in (before, after))
    assert [found.text for found in tree.explain(second[0], first[0].inputs)] == [text]
    (inherited,) = tree.explain(second[1], first[1].inputs, {node.key: node.inputs for node in first}.get)
    assert (inherited.text, inherited.inherited) == (f"ancestor r: {text}", True)
