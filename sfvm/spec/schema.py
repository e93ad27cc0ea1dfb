"""The schema of specs: RELAX NG assembled from the fragments that live beside each verb.

Around the verbs stands the structure (``param``, ``include``, ``if``, ``choose``, ``for``), written here once. Every
attribute of a verb may hold a variable and every element an ``xml:base``; verbs need not say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from html import escape

from lxml import etree

from sfvm.document import NAMESPACE, Element
from sfvm.errors import SfvmError, SpecError, suggestion
from sfvm.spec import shape
from sfvm.spec.patterns import SHARED, TYPES
from sfvm.verbs import registry

RNG = "http://relaxng.org/ns/structure/1.0"
_XSD = "http://www.w3.org/2001/XMLSchema-datatypes"

KINDS = ("filesystem", "fragment", "format", "format-fragment")
"""What a whole document can be; a ``format-fragment`` is what a format includes."""

STRUCTURE = {
    "filesystem": "A node: what it begins with, and the steps that make it.",
    "fragment": "What include takes in: params, and steps (or, for formats, verbs).",
    "format": "How artifacts are made of a node: a layout, and verbs in order.",
    "summary": "A line for people.",
    "param": "A value that the command line may change; ${name} stands for it. Its text is for people.",
    "disk": "The disk of a node without a parent: its size, and the filesystem on it.",
    "base": "What a node without a parent begins with: one of the bases.",
    "steps": "What is done, in order.",
    "include": "Takes in what is in a fragment, which is looked for beside the file, then in the directories of specs.",
    "with": "The value of a param of the fragment.",
    "if": "What is in it counts if the test, in XPath 1.0, is true; $name stands for a param or a fact.",
    "choose": "The first when whose test is true counts, else otherwise.",
    "when": "What is in it counts if the test, in XPath 1.0, is true, and no earlier one is.",
    "otherwise": "What is in it counts if no test is true.",
    "for": "What is in it counts once for each word of in; the variable that each names is the word.",
}
"""What every element says that is no verb, nor a part of one."""

_TYPES = "".join(f"<value>{name}</value>" for name in TYPES)
_HEAD = f"""
  <optional><element name="summary"><text/></element></optional>
  <zeroOrMore><element name="param">
    <attribute name="name"><ref name="identifier"/></attribute>
    <optional><attribute name="default"/></optional>
    <optional><attribute name="pattern"/></optional>
    <optional><attribute name="choices"/></optional>
    <optional><attribute name="type"><choice>{_TYPES}</choice></attribute></optional>
    <text/>
  </element></zeroOrMore>"""

_ROOTS = {
    "filesystem": f"""<element name="filesystem">
  <attribute name="name"><ref name="node-name"/></attribute>{_HEAD}
  <choice>
    <attribute name="parent"><ref name="node-name"/></attribute>
    <group>
      <optional><element name="disk">
        <attribute name="size"><ref name="size"/></attribute>
        <optional><attribute name="format"><ref name="word"/></attribute></optional>
      </element></optional>
      <element name="base"><oneOrMore><ref name="bases"/></oneOrMore></element>
    </group>
  </choice>
  <optional><element name="steps"><zeroOrMore><ref name="steps"/></zeroOrMore></element></optional>
</element>""",
    "fragment": f"""<element name="fragment">{_HEAD}
  <element name="steps"><zeroOrMore><ref name="steps"/></zeroOrMore></element>
</element>""",
    "format": f"""<element name="format">
  <attribute name="name"><ref name="node-name"/></attribute>
  <optional><attribute name="produces"/></optional>{_HEAD}
  <zeroOrMore><ref name="bundle"/></zeroOrMore>
</element>""",
    "format-fragment": f"""<element name="fragment">{_HEAD}
  <zeroOrMore><ref name="bundle"/></zeroOrMore>
</element>""",
}

_INCLUDE = """<element name="include">
  <attribute name="spec"/>
  <zeroOrMore><element name="with"><attribute name="name"><ref name="identifier"/></attribute>
    <attribute name="value"/></element></zeroOrMore>
</element>"""

_CONDITIONS = """<element name="if"><attribute name="test"/><zeroOrMore><ref name="BODY"/></zeroOrMore></element>
<element name="choose">
  <oneOrMore><element name="when">
    <attribute name="test"/><zeroOrMore><ref name="BODY"/></zeroOrMore>
  </element></oneOrMore>
  <optional><element name="otherwise"><zeroOrMore><ref name="BODY"/></zeroOrMore></element></optional>
</element>"""

_FOR = """<element name="for">
  <attribute name="each"><ref name="identifier"/></attribute><attribute name="in"/>
  <zeroOrMore><ref name="BODY"/></zeroOrMore>
</element>"""


_STEP = re.compile(r"/ns0:([^/\[]+)(?:\[([0-9]+)\])?")


@cache
def assemble(kind: str) -> bytes:
    """The complete RELAX NG schema (XML syntax) of a *kind* of spec: one of :data:`KINDS`."""
    root: str = _ROOTS[kind]
    return _assemble(root, ("bundle",) if kind.startswith("format") else ("steps", "bases"))


def validate(root: Element, kind: str) -> None:
    """Check a whole document against the schema of its *kind*.

    :raises SpecError: with the place and, for a misspelt name, a suggestion
    """
    if root.tag != (expected := kind.removeprefix("format-")):
        raise SpecError(
            f"a {expected} is expected here, not {root.tag!r}",
            place=root.place,
            hint=suggestion(root.tag, [expected]) or f"make <{expected}> the root element",
        )
    relaxng, outline = _compiled(assemble(kind))
    if not relaxng.validate(_to_lxml(root)):
        shape.check(root, outline)
        _check_order(root)
        if kind == "filesystem":
            _check_beginning(root)
        raise _invalid(root, relaxng)


def validate_verb(element: Element, kind: str) -> None:
    """Check one element of the registry *kind* (``steps``, ``bases``, ``bundle``) once its variables are replaced.

    :raises SpecError: as :func:`validate`
    """
    relaxng, outline = _compiled(_verbs_only(kind))
    if not relaxng.validate(_to_lxml(element)):
        shape.check(element, outline)
        raise _invalid(element, relaxng)


def _check_beginning(root: Element) -> None:
    """What the schema says too, in better words: a node has a parent, or begins with a base."""
    inside = {child.tag: child for child in root.children}
    if "parent" not in root.attributes:
        if "base" not in inside:
            raise SpecError(
                f"filesystem {root.get('name', '')!r} has neither a parent nor a base",
                place=root.place,
                hint='name a parent="…", or add <base> to begin a new tree',
            )
    elif extra := inside.get("base") or inside.get("disk"):
        raise SpecError(
            f"a filesystem with a parent has no {extra.tag}: it begins as its parent ends",
            place=extra.place,
            hint=f"remove <{extra.tag}>, or the attribute parent",
        )


def _check_order(root: Element) -> None:
    """The parts of a document come in one order, each once but for params: said in better words than the schema's."""
    order = ("summary", "param", "disk", "base", "steps")
    before: Element | None = None
    for child in (child for child in root.children if child.tag in order):
        if before and order.index(child.tag) < order.index(before.tag):
            raise SpecError(
                f"{child.tag} comes too late",
                place=child.place,
                why="the order is " + ", ".join(order),
                hint=f"move it before <{before.tag}>",
            )
        if before and child.tag == before.tag != "param":
            raise SpecError(f"a second {child.tag}", place=child.place, hint="there can be one: join them")
        before = child


def _invalid(element: Element, relaxng: etree.RelaxNG) -> SpecError:
    """What *relaxng* found in *element*, when nothing better can be said."""
    # libxml2 reports every branch it tried: the deepest place is the one where the document went wrong.
    found = max(relaxng.error_log, key=lambda error: (error.path or "").count("/"))
    guilty = _at(element, found.path or "")
    return SpecError(
        f"{guilty.tag} is not valid here",
        place=guilty.place,
        why=found.message,
        hint="compare with `sfvm schema`: an element is missing, repeated or in another order",
    )


def _to_lxml(element: Element) -> etree._Element:
    """The element as libxml2's tree, made from what expat accepted: libxml2 never parses a user's bytes."""
    top = etree.Element(f"{{{NAMESPACE}}}{element.tag}", _attributes(element), {"ns0": NAMESPACE})
    pending = [(element, top)]
    while pending:
        source, target = pending.pop()
        target.text = source.text
        for child in source.children:
            below = etree.SubElement(target, f"{{{NAMESPACE}}}{child.tag}", _attributes(child))
            pending.append((child, below))
    return top


def _attributes(element: Element) -> dict[str, str]:
    """The attributes as lxml names them: ``{namespace}name`` for a foreign one, which no schema of ours allows."""
    return {"{{{}}}{}".format(*n.rsplit(":", 1)) if ":" in n else n: v for n, v in element.attributes.items()}


def _at(element: Element, path: str) -> Element:
    """The element at libxml2's *path*, such as ``/ns0:filesystem/ns0:steps/ns0:if[2]``; the nearest one above it
    when it names none."""
    for name, number in _STEP.findall(path)[1:]:
        same = [child for child in element.children if child.tag == name]
        index = int(number or 1) - 1
        if index >= len(same):
            break
        element = same[index]
    return element


def expands_text(element: Element, kind: str, otherwise: bool | None = None) -> bool:
    """Whether variables in the element's text are replaced: as its attribute ``expand`` says; else *otherwise* (what
    holds for the verb around it); else the verb's ``expand``; else only for ``file``."""
    if "expand" in element.attributes:
        return element.flag("expand")
    if otherwise is not None:
        return otherwise
    return getattr(registry(kind).get(element.tag), "expand", element.tag == "file") is True


@cache
def _verbs_only(kind: str) -> bytes:
    return _assemble('<ref name="verbs"/>', (kind,), f'<define name="verbs"><ref name="{kind}-verbs"/></define>')


def _assemble(start: str, kinds: Iterable[str], extra: str = "") -> bytes:
    shared = "".join(f'<define name="{name}">{_pattern(pattern.facet)}</define>' for name, pattern in SHARED.items())
    bodies = "".join(_body(kind) for kind in kinds)
    grammar = etree.fromstring(
        f'<grammar xmlns="{RNG}" ns="{NAMESPACE}" datatypeLibrary="{_XSD}"><start>{start}</start>'
        f'<define name="base"><optional><attribute name="xml:base"/></optional></define>'
        f"{extra}{bodies}{shared}</grammar>"
    )
    for element in grammar.iter(f"{{{RNG}}}element"):
        etree.SubElement(element, f"{{{RNG}}}ref", name="base")
    etree.indent(grammar)
    return etree.tostring(grammar, xml_declaration=True, encoding="UTF-8", pretty_print=True)


def _pattern(facet: str | None) -> str:
    if facet is None:
        return "<text/>"
    return f'<data type="string"><param name="pattern">{escape(facet, quote=False)}</param></data>'


def _body(kind: str) -> str:
    """The definitions *kind* (a verb or structure around verbs) and *kind*-verbs."""
    verbs = {name: verb.schema for name, verb in sorted(registry(kind).items())}
    structure = _CONDITIONS if kind == "bases" else _CONDITIONS + _FOR + _INCLUDE
    own = "".join(_fragment(name, text) for name, text in verbs.items()) or "<notAllowed/>"
    around = structure.replace("BODY", kind)
    return (
        f'<define name="{kind}"><choice><ref name="{kind}-verbs"/>{around}</choice></define>'
        f'<define name="{kind}-verbs"><choice>{own}</choice></define>'
    )


def _fragment(name: str, text: str) -> str:
    """A verb's fragment, checked, with variables allowed in every attribute.

    :raises SfvmError: when the fragment is broken: a mistake of the verb's author, named
    """
    try:
        wrapper = etree.fromstring(f'<group xmlns="{RNG}">{text}</group>')
    except etree.XMLSyntaxError as error:
        raise _broken(name, str(error)) from error
    if len(wrapper) != 1 or wrapper[0].tag != f"{{{RNG}}}element" or wrapper[0].get("name") != name:
        raise _broken(name, f'it must be one <element name="{name}">')
    for reference in wrapper.iter(f"{{{RNG}}}ref"):
        if reference.get("name") not in SHARED:
            raise _broken(name, f"<ref name={reference.get('name')!r}/>", suggestion(reference.get("name", ""), SHARED))
    for attribute in wrapper.iter(f"{{{RNG}}}attribute"):
        content = list(attribute)
        if content and not all(child.tag in (f"{{{RNG}}}ref", f"{{{RNG}}}text") for child in content):
            choice = etree.SubElement(attribute, f"{{{RNG}}}choice")
            choice.extend(content)
            etree.SubElement(choice, f"{{{RNG}}}ref", name="variable")
    return etree.tostring(wrapper[0], encoding="unicode")


def _broken(verb: str, why: str, hint: str | None = None) -> SfvmError:
    return SfvmError(f"the schema fragment of the verb {verb!r} is not valid", why=why, hint=hint)


@cache
def _compiled(schema: bytes) -> tuple[etree.RelaxNG, shape.Shape]:
    grammar = etree.fromstring(schema)
    try:
        return etree.RelaxNG(grammar), shape.outline(grammar)
    except etree.RelaxNGParseError as error:
        raise SfvmError("the schema of sfvm and its verbs is not valid", why=str(error)) from error
