"""The expanded spec as XML, for people and for manifests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from sfvm.document import NAMESPACE, Element
from sfvm.spec.model import Definition


def to_xml(definition: Definition) -> str:
    """The spec of *definition* with every variable replaced and all structure gone. It is a valid spec again, except
    that ``xml:base`` may point to a fragment's directory outside the spec's own."""
    if definition.expanded is None:
        raise ValueError("a definition made by hand has no spec to show")
    return "\n".join(_lines(definition.expanded, definition.expanded.directory, "")) + "\n"


def _lines(element: Element, directory: Path, margin: str) -> Iterator[str]:
    attributes = {} if margin else {"xmlns": NAMESPACE}
    attributes |= element.attributes
    if element.directory != directory:
        attributes["xml:base"] = Path(os.path.relpath(element.directory, directory)).as_posix()
    words = (f"{name}={quoteattr(value.replace('${', '$${'))}" for name, value in attributes.items())
    start = " ".join([element.tag, *words])
    if element.text.strip():
        # Text is kept to the letter, so nothing may be added around it; children follow it.
        children = "".join(line.strip() for child in element.children for line in _lines(child, element.directory, " "))
        yield f"{margin}<{start}>{escape(element.text)}{children}</{element.tag}>"
    elif element.children:
        yield f"{margin}<{start}>"
        for child in element.children:
            yield from _lines(child, element.directory, margin + "  ")
        yield f"{margin}</{element.tag}>"
    else:
        yield f"{margin}<{start}/>"
