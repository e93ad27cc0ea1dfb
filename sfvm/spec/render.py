"""The expanded spec as XML, for people and for manifests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from sfvm.document import NAMESPACE, Element
from sfvm.spec.model import Definition
from sfvm.spec.schema import expands_text


def to_xml(definition: Definition) -> str:
    """The spec of *definition* with every variable replaced and all structure gone. It is a valid spec again, except
    that ``xml:base`` may point to a fragment's directory outside the spec's own."""
    if definition.expanded is None:
        raise ValueError("a definition made by hand has no spec to show")
    return "\n".join(_lines(definition.expanded, definition.expanded.directory, "")) + "\n"


def _lines(
    element: Element, directory: Path, margin: str, kind: str = "", expanded: bool | None = None
) -> Iterator[str]:
    attributes = {} if margin else {"xmlns": NAMESPACE}
    attributes |= element.attributes
    if element.directory != directory:
        attributes["xml:base"] = Path(os.path.relpath(element.directory, directory)).as_posix()
    start = " ".join([element.tag, *(f"{name}={quoteattr(_literal(value))}" for name, value in attributes.items())])
    if kind:
        expanded = expands_text(element, kind, expanded)
    else:
        kind = {"steps": "steps", "base": "bases"}.get(element.tag, "")

    def below(inner: str) -> Iterator[str]:
        for child in element.children:
            yield from _lines(child, element.directory, inner, kind, expanded)

    if element.text.strip() or (element.text and not element.children):
        # Text is kept to the letter, so no white space may be added; children follow it.
        text = escape(_literal(element.text) if expanded else element.text, {"\r": "&#13;"})
        yield f"{margin}<{start}>{text}{''.join(line.strip() for line in below(' '))}</{element.tag}>"
    elif element.children:
        yield f"{margin}<{start}>"
        yield from below(margin + "  ")
        yield f"{margin}</{element.tag}>"
    else:
        yield f"{margin}<{start}/>"


def _literal(text: str) -> str:
    """*text* so that expansion gives it back."""
    return text.replace("${", "$${")
