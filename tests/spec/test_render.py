"""The expanded spec as XML."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfvm.spec import expansion, parser
from sfvm.spec.render import to_xml

Write = Callable[[str, str], Path]


def test_the_rendered_spec_expands_to_the_same(write: Write) -> None:
    write("deep/f.xml", '<fragment><steps><user name="f"/></steps></fragment>')
    path = write(
        "a.xml",
        """<filesystem name="a"><summary>A &amp; B</summary><param name="x" default="&lt;&quot;1"/>
  <disk size="1G"/><base><empty/></base><steps>
    <if test="true()"><file path="/${x}">a ${x} $${x} &amp; <![CDATA[<b>]]>
  indented
</file></if>
    <run>echo "${x}" '$${x}' &lt; y</run>
    <file path="/lit$${eral}" expand="no">${x}</file>
    <include spec="deep/f.xml"/>
</steps></filesystem>""",
    )
    first = expansion.expand(parser.load(path), {}, {})
    text = to_xml(first)
    assert "${x} $" not in text.replace("'$${x}'", "").split("<run>")[0].replace("$${x}", "")
    again = write("b.xml", text.replace(' xmlns="urn:sfvm:1"', "", 1))
    second = expansion.expand(parser.load(again), {}, {})
    assert [dict(step.inputs()) for step in second.steps if step.element != "run"] == [
        dict(step.inputs()) for step in first.steps if step.element != "run"
    ]
    assert to_xml(second) == text
    assert second.summary == "A & B"
    assert 'xml:base="deep"' in text


@pytest.mark.parametrize("text", ["   \n", "\t", "&#13;", "a&#13;\nb", " <!-- c --> "])
def test_white_space_is_a_text_too(write: Write, text: str) -> None:
    path = write("a.xml", f'<filesystem name="a" parent="b"><steps><file path="/x">{text}</file></steps></filesystem>')
    first = expansion.expand(parser.load(path), {}, {})
    again = write("b.xml", to_xml(first).replace(' xmlns="urn:sfvm:1"', "", 1))
    second = expansion.expand(parser.load(again), {}, {})
    assert first.steps[0].inputs()["text"]
    assert [dict(step.inputs()) for step in second.steps] == [dict(step.inputs()) for step in first.steps]
