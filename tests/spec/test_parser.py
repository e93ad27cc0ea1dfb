"""Specs as written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sfvm.errors import SpecError
from sfvm.spec import parser

Write = Callable[[str, str], Path]


def test_a_spec_knows_its_params(write: Write) -> None:
    spec = parser.load(
        write(
            "web.xml",
            '<filesystem name="web" parent="debian"><summary>a\n  b</summary>'
            '<param name="x" default="1" pattern="[0-9]" choices="1 2"/><param name="y"/></filesystem>',
        )
    )
    assert (spec.name, spec.parent, spec.summary) == ("web", "debian", "a b")
    x, y = spec.params
    assert (x.name, x.default, x.pattern, x.choices) == ("x", "1", "[0-9]", ("1", "2"))
    assert (y.default, y.pattern, y.choices) == (None, None, ())


def test_a_param_twice(write: Write) -> None:
    with pytest.raises(SpecError, match="declared twice"):
        parser.load(write("a.xml", '<filesystem name="a" parent="b"><param name="x"/><param name="x"/></filesystem>'))


@pytest.mark.parametrize("pattern", ["[", "a{99999999999999}", "(" * 3000 + ")" * 3000])
def test_a_pattern_that_is_none(write: Write, pattern: str) -> None:
    text = f'<filesystem name="a" parent="b"><param name="x" pattern="{pattern}"/></filesystem>'
    with pytest.raises(SpecError, match="no regular expression"):
        parser.load(write("a.xml", text))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('<filesystem name="a" parent="b"/>', "filesystem"),
        ("<fragment><steps/></fragment>", "fragment"),
        ('<fragment><requires driver="x"/></fragment>', "format-fragment"),
        ('<format name="raw"/>', "format"),
    ],
)
def test_any_spec_file_is_checked_as_what_it_is(write: Write, text: str, kind: str) -> None:
    assert parser.check(write("a.xml", text)) == kind


def test_a_file_that_is_no_spec(write: Write) -> None:
    path = write("a.xml", "<filesystem/>")
    path.write_text('<filesistem xmlns="urn:sfvm:1"/>')
    with pytest.raises(SpecError, match="not 'filesistem'") as caught:
        parser.check(path)
    assert caught.value.hint == "did you mean 'filesystem'?"
