"""What may stand where, read off the assembled schema: for messages that name the mistake and the likely remedy.

RELAX NG decides what is valid; this only finds the common mistakes first, because libxml2's messages do not name the
names that would have been right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from lxml import etree

from sfvm.document import Element
from sfvm.errors import SpecError, suggestion
from sfvm.spec.patterns import SHARED, VARIABLE, Pattern

_RNG = "{http://relaxng.org/ns/structure/1.0}"
_OPTIONAL = {f"{_RNG}optional", f"{_RNG}choice", f"{_RNG}zeroOrMore"}
_TEXT = {f"{_RNG}{name}" for name in ("text", "data", "value", "list")}
_NAME_CLASSES = {f"{_RNG}{name}" for name in ("name", "anyName", "nsName")}
_STRUCTURE = {"if", "when", "otherwise", "for"}

Defines = Mapping[str, etree._Element]


@dataclass
class Attribute:
    """*values* and *patterns* are the alternatives; none at all: any text."""

    required: bool
    values: list[str] = field(default_factory=list)
    patterns: list[Pattern] = field(default_factory=list)

    def either(self, other: Attribute) -> Attribute:
        """What may stand where this or *other* may; required only if both are."""
        required = self.required and other.required
        if not (self.values or self.patterns) or not (other.values or other.patterns):
            return Attribute(required)
        values, patterns = dict.fromkeys(self.values + other.values), dict.fromkeys(self.patterns + other.patterns)
        return Attribute(required, list(values), list(patterns))

    def accepts(self, value: str) -> bool:
        if not self.values and not self.patterns:
            return True
        return value in self.values or any(pattern.accepts(value) for pattern in self.patterns)

    @property
    def meaning(self) -> str:
        """Completes "is not …"."""
        named = [pattern.meaning for pattern in self.patterns if pattern.expression != VARIABLE]
        return " or ".join([*(["one of " + ", ".join(self.values)] if self.values else []), *named])


@dataclass
class Shape:
    """The content of an element (or, at the top, the start): all that the patterns in *sources* allow."""

    sources: Sequence[etree._Element]
    defines: Defines

    @cached_property
    def content(self) -> _Content:
        first, *others = (_read(source, self.defines) for source in self.sources)
        for other in others:
            first.merge(other)
        return first

    @cached_property
    def children(self) -> dict[str, Shape]:
        return {name: Shape(sources, self.defines) for name, sources in self.content.elements.items()}


@dataclass
class _Content:
    attributes: dict[str, Attribute] = field(default_factory=dict)
    elements: dict[str, list[etree._Element]] = field(default_factory=dict)
    text: bool = False
    open: bool = False

    def merge(self, other: _Content) -> None:
        """Take in the content of another pattern for an element of the same name: either may hold."""
        for name in {*self.attributes, *other.attributes}:
            one, two = self.attributes.get(name), other.attributes.get(name)
            if one and two:
                self.attributes[name] = one.either(two)
            elif only := one or two:
                self.attributes[name] = replace(only, required=False)
        for name, sources in other.elements.items():
            self.elements.setdefault(name, []).extend(sources)
        self.text |= other.text
        self.open |= other.open


def outline(grammar: etree._Element) -> Shape:
    """The shape of the documents that an assembled *grammar* describes."""
    defines = {define.get("name", ""): define for define in grammar.iter(f"{_RNG}define")}
    start = grammar.find(f"{_RNG}start")
    assert start is not None  # assembled by sfvm.spec.schema
    return Shape((start,), defines)


def find(name: str, outline: Shape) -> tuple[Shape, frozenset[str]] | None:
    """What all elements *name* come to, and the elements in which they may stand; None when there is none."""
    homes = {home: shape.children[name] for home, shape in _walk(outline) if name in shape.children}
    sources = {id(source): source for shape in homes.values() for source in shape.sources}
    return (Shape(tuple(sources.values()), outline.defines), frozenset(filter(None, homes))) if homes else None


def check(element: Element, outline: Shape) -> None:
    """Find the first unknown name, missing attribute or wrong value in *element*.

    :raises SpecError: with its place and what would be right
    """
    pending = [(element, "", outline)]
    while pending:
        element, parent, around = pending.pop()
        here = around.children.get(element.tag)
        if here is None:
            if around.content.open:
                continue
            raise _unknown(element, parent, around, outline)
        _check_attributes(element, here.content)
        if element.text.strip() and not here.content.text and not here.content.open:
            raise SpecError(
                f"text is not allowed in {element.tag}",
                place=element.place,
                why=f"it reads {element.text.strip().splitlines()[0][:60]!r}",
                hint="remove it, or make it a comment",
            )
        pending += [(child, element.tag, here) for child in reversed(element.children)]


def _unknown(element: Element, parent: str, around: Shape, outline: Shape) -> SpecError:
    hint = suggestion(element.tag, around.children)
    homes = sorted({name for name, shape in _walk(outline) if name not in _STRUCTURE and element.tag in shape.children})
    if homes and not (hint and hint.startswith("did")):
        hint = f"{element.tag} belongs in {' or '.join(homes)}"
    what = f"unknown element {element.tag!r} in {parent}" if parent else f"unknown element {element.tag!r}"
    return SpecError(what, place=element.place, hint=hint)


def _check_attributes(element: Element, content: _Content) -> None:
    for name, value in element.attributes.items():
        attribute = content.attributes.get(name)
        if attribute is None:
            if not content.open:
                raise SpecError(
                    f"unknown attribute {name!r} of {element.tag}",
                    place=element.place_of(name),
                    hint=suggestion(name, content.attributes) or f"{element.tag} has no attributes",
                )
        elif not attribute.accepts(value):
            raise SpecError(
                f"{element.tag} {name}={value!r} is not {attribute.meaning}",
                place=element.place_of(name),
                hint=suggestion(value, attribute.values) or f"correct {name}",
            )
    for name, attribute in content.attributes.items():
        if attribute.required and name not in element.attributes:
            raise SpecError(f"{element.tag} lacks the attribute {name!r}", place=element.place, hint=f'add {name}="…"')


def _walk(outline: Shape) -> Iterator[tuple[str, Shape]]:
    """Every distinct element of the grammar, once."""
    seen: set[int] = set()
    pending = [("", outline)]
    while pending:
        name, shape = pending.pop()
        if id(shape.sources[0]) not in seen:
            seen.add(id(shape.sources[0]))
            yield name, shape
            pending += shape.children.items()


def _read(source: etree._Element, defines: Defines) -> _Content:
    content = _Content()
    pending = [(child, True) for child in source]
    while pending:
        node, required = pending.pop()
        if node.tag == f"{_RNG}attribute":
            _read_attribute(node, required, content)
        elif node.tag == f"{_RNG}element":
            if name := node.get("name"):
                content.elements.setdefault(name, []).append(node)
            else:
                content.open = True
        elif node.tag == f"{_RNG}ref":
            pending += [(child, required) for child in defines[node.get("name", "")]]
        elif node.tag in _TEXT:
            content.text = True
        elif node.tag not in _NAME_CLASSES and isinstance(node.tag, str):
            pending += [(child, required and node.tag not in _OPTIONAL) for child in node]
    return content


def _read_attribute(node: etree._Element, required: bool, content: _Content) -> None:
    name = node.get("name")
    if name is None:
        content.open = True
        return
    if name == "xml:base":  # taken away by the parser
        return
    attribute = Attribute(required)
    alternatives = list(node)
    while alternatives:
        alternative = alternatives.pop(0)
        if alternative.tag == f"{_RNG}choice":
            alternatives[:0] = list(alternative)
        elif alternative.tag == f"{_RNG}value":
            attribute.values.append(alternative.text or "")
        elif alternative.tag == f"{_RNG}ref" and (pattern := SHARED[alternative.get("name", "")]).facet:
            attribute.patterns.append(pattern)
        else:  # anything that only RELAX NG itself can judge
            attribute = Attribute(required)
            break
    if known := content.attributes.get(name):  # in another branch of a choice
        attribute = replace(known.either(attribute), required=False)
    content.attributes[name] = attribute
