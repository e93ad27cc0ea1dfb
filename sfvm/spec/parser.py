"""From a file to a spec: parsed safely, valid, its params read; nothing expanded yet."""

from __future__ import annotations

import re
from pathlib import Path

from sfvm import document
from sfvm.document import NO_EXPRESSION, Element
from sfvm.errors import SpecError
from sfvm.spec import schema
from sfvm.spec.model import Param, Spec


def load(path: Path) -> Spec:
    """The filesystem spec in the file *path*.

    :raises SpecError: unreadable, not well-formed, or not valid
    """
    root = document.parse(path)
    schema.validate(root, "filesystem")
    return Spec(root.attributes["name"], root.get("parent"), summary(root), params(root), path, root)


def check(path: Path) -> str:
    """Validate any spec file, whatever its root element says it is: the kind it was checked as (one of
    :data:`sfvm.spec.schema.KINDS`).

    :raises SpecError: unreadable, not well-formed, or not valid
    """
    root = document.parse(path)
    kind = root.tag if root.tag in schema.KINDS else "filesystem"
    if kind == "fragment" and not any(child.tag == "steps" for child in root.children):
        kind = "format-fragment"
    schema.validate(root, kind)
    params(root)
    return kind


def summary(root: Element) -> str:
    """The text of the ``summary`` of a spec, on one line."""
    return " ".join(next((child.text for child in root.children if child.tag == "summary"), "").split())


def params(root: Element) -> tuple[Param, ...]:
    """The ``param`` elements of a filesystem spec, a fragment or a format.

    :raises SpecError: for a name declared twice or a pattern that is no regular expression
    """
    found: dict[str, Param] = {}
    for element in root.children:
        if element.tag != "param":
            continue
        name = element.attributes["name"]
        if name in found:
            raise SpecError(
                f"param {name!r} is declared twice",
                place=element.place,
                why=f"first at {found[name].place}",
                hint="remove one of them",
            )
        pattern = element.get("pattern")
        try:
            re.compile(pattern or "")
        except NO_EXPRESSION as error:
            raise SpecError(
                f"param {name!r}: pattern {pattern!r} is no regular expression",
                place=element.place_of("pattern"),
                why=str(error),
                hint="write it as for Python's re.fullmatch",
            ) from None
        kind = element.get("type") or "string"
        found[name] = Param(name, element.get("default"), pattern, element.words("choices"), element.place, kind)
    return tuple(found.values())
