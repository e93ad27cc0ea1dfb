"""``test`` attributes: XPath 1.0 over the variables, with nothing else to look at."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from lxml import etree

from sfvm.document import Element
from sfvm.errors import SpecError, suggestion

_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")
_VARIABLE = re.compile(r"\$\s*([\w.\-]+)")


def holds(test: str, variables: Mapping[str, str], element: Element) -> bool:
    """Whether the XPath expression *test* is true; *element* is where it stands.

    The context is an empty element and no extension function is known, so a test can read no file and no document.

    :raises SpecError: not XPath, or an undefined variable
    """
    used = set(_VARIABLE.findall(_LITERAL.sub("''", test)))
    for name in sorted(used - set(variables)):
        raise SpecError(
            f"undefined variable {name!r} in test",
            place=element.place_of("test"),
            hint=suggestion(name, variables) or "declare it with <param>",
        )
    try:
        values = {name: variables[name] for name in used}
        return bool(_compiled(test)(etree.Element("nothing"), **values))
    except (etree.XPathError, ValueError) as error:
        raise SpecError(
            f"test={test!r} is not an XPath 1.0 expression",
            place=element.place_of("test"),
            why=str(error),
            hint="for example test=\"$site = 'example' and $port > 1024\"",
        ) from None


@lru_cache(maxsize=1024)
def _compiled(test: str) -> etree.XPath:
    etree.XPath(test, regexp=False)  # on its own first: brackets must not close early
    return etree.XPath(f"boolean({test})", regexp=False, smart_strings=False)
