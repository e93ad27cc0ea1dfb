"""Tests in specs: XPath, and nothing to reach with it."""

import os
from pathlib import Path
from types import MappingProxyType

import pytest

from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.spec.condition import holds

HERE = Element("if", MappingProxyType({}), "", (), Place(Path("a.xml"), 1), Path())
VARIABLES = {"site": "example", "n": "10", "empty": ""}


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("$site = 'example'", True),
        ("$site != 'example'", False),
        ("$n > 9", True),
        ("$n + 1 = 11 and not($empty)", True),
        ("$empty", False),
        ("starts-with($site, 'ex')", True),
        ("'$unknown' = '$unknown'", True),
        ("0", False),
        ("number('x')", False),
        ("/nothing/*", False),
    ],
)
def test_a_test_is_xpath(test: str, expected: bool) -> None:
    assert holds(test, VARIABLES, HERE) is expected


def test_an_undefined_variable_is_found_even_where_it_does_not_matter() -> None:
    with pytest.raises(SpecError, match="undefined variable 'sit'") as caught:
        holds("true() or $sit", VARIABLES, HERE)
    assert caught.value.hint == "did you mean 'site'?"


@pytest.mark.parametrize("test", ["", "$", "1 +", "1) or (1", "x:y()", "re:test('a', 'a')", "unknown()", "current()"])
def test_what_is_no_xpath(test: str) -> None:
    with pytest.raises(SpecError, match="not an XPath"):
        holds(test, VARIABLES, HERE)


def test_a_test_opens_no_file(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    os.mkfifo(trap)  # whoever opens it to read waits for ever
    for function in ("document", "unparsed-text", "doc"):
        with pytest.raises(SpecError, match="not an XPath"):
            holds(f"{function}('{trap}')", VARIABLES, HERE)
