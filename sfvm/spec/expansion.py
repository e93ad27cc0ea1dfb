"""Expansion: params, variables, conditions, repetition and includes; afterwards only verbs are left."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from sfvm.document import Element
from sfvm.errors import Place, SfvmError, SpecError, UsageError, suggestion
from sfvm.spec import include, parser, schema
from sfvm.spec.condition import holds
from sfvm.spec.model import Definition, Disk, Param, Spec
from sfvm.spec.patterns import IDENTIFIER, SHARED, Pattern
from sfvm.verbs import Base, Step, registry

MAX_ELEMENTS = 100_000
MAX_VALUE = 1 << 20
"""Characters of one value after substitution."""
MAX_CHARACTERS = 64 << 20
"""Characters of all values of one expansion."""

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_UNPRINTABLE = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_DEFAULT_DISK = Disk(8 << 30, "ext4")
FILESYSTEMS = ("ext4", "xfs", "btrfs")
"""What a node may have on its disk."""
BLOCK = 4096
"""Bytes: QEMU's images and all these filesystems are made of whole blocks."""
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def expand(
    spec: Spec, arguments: Mapping[str, str], facts: Mapping[str, str], *, library_dirs: Sequence[Path] = ()
) -> Definition:
    """What *spec* means for *arguments* (values of its own params) and *facts* (the parent's; for a root, none).

    :raises SpecError: undefined variable, missing argument, missing include, too large, a verb's complaint
    :raises UsageError: an argument that does not fit
    """
    known = {"architecture": architecture(), **facts}
    bound = bind(spec.params, arguments, spec.root.place, known, UsageError)
    expander = _Expander("steps", spec.path, library_dirs)
    inside = {child.tag: child for child in spec.root.children}
    parts: list[Element] = []
    base: Base | None = None
    disk: Disk | None = None
    if "base" in inside:
        disk_part = expander.settle(inside["disk"], {**known, **bound}, "bases") if "disk" in inside else None
        base_part = _only(expander.structure("bases", inside["base"], {**known, **bound}, known), inside["base"])
        base = registry("bases")[base_part.tag].parse(base_part)
        disk = _disk(disk_part)
        known = {"distribution": "", "release": "", **known, **base.facts()}
        parts += [disk_part] if disk_part else []
        parts.append(replace(inside["base"], children=(base_part,)))
    steps: list[Step] = []
    if "steps" in inside:
        elements = expander.structure("steps", inside["steps"], {**known, **bound}, known)
        steps = [registry("steps")[element.tag].parse(element) for element in elements]
        parts.append(replace(inside["steps"], children=tuple(elements)))
    head = tuple(child for child in spec.root.children if child.tag == "summary")
    return Definition(
        spec.name,
        spec.parent,
        spec.summary,
        disk,
        base,
        tuple(steps),
        MappingProxyType(bound),
        MappingProxyType(known),
        spec.root.place,
        replace(spec.root, children=(*head, *parts)),
    )


def expand_children(
    element: Element,
    variables: Mapping[str, str],
    *,
    library_dirs: Sequence[Path] = (),
    facts: Mapping[str, str] | None = None,
) -> tuple[Element, ...]:
    """The children of *element* with structure gone and variables replaced, ``param`` left out.

    Serves formats too. Fragments that are included see their own params and *facts*.

    :raises SpecError: as :func:`expand`
    """
    kind = "bundle" if element.tag == "format" else "steps"
    expander = _Expander(kind, element.place.path, library_dirs)
    return tuple(expander.structure(kind, element, variables, facts or {}))


def architecture() -> str:
    """The machine's architecture as distributions name it: ``x86_64``, ``aarch64``."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def bind(
    params: Sequence[Param],
    arguments: Mapping[str, str],
    place: Place,
    variables: Mapping[str, str] | None = None,
    unfit: type[SfvmError] = SpecError,
) -> dict[str, str]:
    """The values of *params*: *arguments*, else defaults (which may refer to *variables* and to earlier params).

    :raises SpecError: an argument that no param declares, a param without a value, a value that does not fit
    :raises SfvmError: *unfit*, where that is one of *arguments*
    """
    declared = {param.name for param in params}
    for name in arguments:
        if name not in declared:
            raise SpecError(f"there is no param {name!r} here", place=place, hint=suggestion(name, declared))
    bound: dict[str, str] = {}
    for param in params:
        value = arguments.get(param.name)
        if value is None:
            if param.default is None:
                raise SpecError(
                    f"param {param.name!r} needs a value",
                    place=param.place,
                    why="it has no default",
                    hint=f"give --param {param.name}=…, or <with name={param.name!r}> where it is included",
                )
            value = substitute(param.default, {**(variables or {}), **bound}, param.place)
        _check(param, value, unfit if param.name in arguments else SpecError)
        bound[param.name] = value
    return bound


def _check(param: Param, value: str, unfit: type[SfvmError]) -> None:
    problem = hint = None
    if param.choices and value not in param.choices:
        problem = "it must be one of " + ", ".join(param.choices)
        hint = suggestion(value, param.choices)
    elif param.pattern is not None and not re.fullmatch(param.pattern, value):
        problem = f"it must match {param.pattern}"
    elif not _fits(SHARED[param.type], value):
        problem = f"it is not {SHARED[param.type].meaning}"
    elif _UNPRINTABLE.search(value):
        problem = "it holds a character that XML does not have"
    elif len(value) > MAX_VALUE:
        problem = f"it is longer than {MAX_VALUE} characters"
    if problem:
        raise unfit(
            f"param {param.name!r} cannot be {value[:80]!r}",
            place=param.place,
            why=problem,
            hint=hint or "give another value",
        )


def _fits(pattern: Pattern, value: str) -> bool:
    return pattern.expression is None or re.fullmatch(pattern.expression, value) is not None


def substitute(text: str, variables: Mapping[str, str], place: Place) -> str:
    """*text* with every ``${name}`` replaced; ``$${`` stands for ``${``.

    :raises SpecError: undefined variable, or a result above :data:`MAX_VALUE`
    """
    if "${" not in text:
        return text
    pieces: list[str] = []
    position = 0
    for match in _REFERENCE.finditer(text):
        pieces.append(text[position : match.start()])
        pieces.append("${" if match[0] == "$${" else _value(match, variables, place))
        position = match.end()
    pieces.append(text[position:])
    if sum(map(len, pieces)) > max(MAX_VALUE, len(text)):
        raise SpecError(f"a value grows beyond {MAX_VALUE} characters", place=place, hint="refer to a file instead")
    return "".join(pieces)


def _value(match: re.Match[str], variables: Mapping[str, str], place: Place) -> str:
    name = match[1]
    if not match[0].endswith("}") or not re.fullmatch(IDENTIFIER, name):
        raise SpecError(
            f"{match[0][:40]!r} is not a variable",
            place=place,
            why="a variable is written ${name}: letters, digits and _",
            hint="write $${ for a literal ${",
        )
    if name not in variables:
        raise SpecError(
            f"undefined variable {name!r}",
            place=place,
            hint=suggestion(name, variables) or f"declare <param name={name!r}/>, or write $${{ for a literal ${{",
        )
    return variables[name]


Scoped = tuple[Element, Mapping[str, str]]


class _Expander:
    """One bounded expansion. *kind* names the verbs whose text may be expanded; *path* is the file it began with."""

    def __init__(self, kind: str, path: Path, library_dirs: Sequence[Path]) -> None:
        self.kind = kind
        self.finder = include.Finder(path, library_dirs)
        self.elements = 0
        self.characters = 0

    def structure(
        self, kind: str, element: Element, variables: Mapping[str, str], facts: Mapping[str, str]
    ) -> list[Element]:
        """The verbs that the children of *element* come to. Iterative: nesting and includes cost no Python stack."""
        done: list[Element] = []
        fragments: list[include.Link] = []
        stack: list[tuple[Iterator[Scoped], bool]] = [(_in_scope(element.children, variables), False)]
        while stack:
            children, is_fragment = stack[-1]
            child, scope = next(children, (None, variables))
            if child is None:
                stack.pop()
                if is_fragment:
                    fragments.pop()
                continue
            self.count(child)
            match child.tag:
                case "param":
                    pass
                case "if" | "choose":
                    stack.append((_in_scope(self.chosen(child, scope), scope), False))
                case "for":
                    stack.append((self.repeated(child, scope), False))
                case "include":
                    fragment, link = self.finder.load(child, self.value(child, "spec", scope), self.kind, fragments)
                    arguments = {w.attributes["name"]: self.value(w, "value", scope) for w in child.children}
                    inner = {**facts, **bind(parser.params(fragment), arguments, child.place, facts)}
                    fragments.append(link)
                    stack.append((_in_scope(_body(fragment), inner), True))
                case "summary":
                    done.append(child)
                case _:
                    settled = self.settle(child, scope, kind)
                    if _attributes(settled) != _attributes(child) and child.tag in registry(kind):
                        schema.validate_verb(settled, kind)
                    done.append(settled)
        return done

    def count(self, element: Element) -> None:
        self.elements += 1
        if self.elements > MAX_ELEMENTS:
            raise SpecError(
                f"the spec expands to more than {MAX_ELEMENTS} elements",
                place=element.place,
                hint="let a <for> repeat less, or do the repetition in one <run>",
            )

    def value(self, element: Element, name: str, variables: Mapping[str, str]) -> str:
        return self.substitute(element.attributes[name], variables, element, name)

    def substitute(self, text: str, variables: Mapping[str, str], element: Element, name: str | None) -> str:
        if "${" not in text:
            return text
        try:
            result = substitute(text, variables, element.place)
        except SpecError as error:
            error.place = element.place_of(name) if name else element.place
            raise
        self.characters += len(result)
        if self.characters > MAX_CHARACTERS:
            raise SpecError(
                f"the spec expands to more than {MAX_CHARACTERS >> 20} million characters",
                place=element.place,
                hint="refer to files instead",
            )
        return result

    def chosen(self, element: Element, variables: Mapping[str, str]) -> tuple[Element, ...]:
        """The children of the branch that holds."""
        for branch in (element,) if element.tag == "if" else element.children:
            if branch.tag == "otherwise" or holds(branch.attributes["test"], variables, branch):
                return branch.children
        return ()

    def repeated(self, element: Element, variables: Mapping[str, str]) -> Iterator[Scoped]:
        name = element.attributes["each"]
        for word in self.value(element, "in", variables).split():
            self.count(element)
            yield from _in_scope(element.children, {**variables, name: word})

    def settle(
        self, element: Element, variables: Mapping[str, str], kind: str, expand_text: bool | None = None
    ) -> Element:
        """The element, a verb of *kind*, and those below it with their variables replaced (documents are at most 100
        deep)."""
        attributes = {
            name: self.substitute(value, variables, element, name) for name, value in element.attributes.items()
        }
        settled = replace(element, attributes=MappingProxyType(attributes), variables=variables)
        expand_text = schema.expands_text(settled, kind, expand_text)
        children = []
        for child in element.children:
            self.count(child)
            children.append(self.settle(child, variables, kind, expand_text))
        text = self.substitute(element.text, variables, element, None) if expand_text else element.text
        if not children and text is element.text:
            return settled
        return replace(settled, text=text, children=tuple(children))


def _attributes(element: Element) -> list[Mapping[str, str]]:
    return [each.attributes for each in element.iter()]


def _in_scope(elements: Iterable[Element], variables: Mapping[str, str]) -> Iterator[Scoped]:
    frozen = MappingProxyType(variables)
    return ((element, frozen) for element in elements)


def _body(fragment: Element) -> tuple[Element, ...]:
    """The verbs and structure of a fragment: those in its ``steps``, or, of a format's fragment, its own."""
    for child in fragment.children:
        if child.tag == "steps":
            return child.children
    return tuple(child for child in fragment.children if child.tag not in ("summary", "param"))


def _only(elements: Sequence[Element], base: Element) -> Element:
    if len(elements) != 1:
        raise SpecError(
            f"a base is one thing, not {len(elements)}",
            place=elements[1].place if elements else base.place,
            hint="let exactly one condition hold, or add <otherwise>",
        )
    return elements[0]


def _disk(element: Element | None) -> Disk:
    if element is None:
        return _DEFAULT_DISK
    match = re.fullmatch(r"([0-9]+)([KMGT]?)", element.attributes["size"])
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if not (1 << 20) <= size <= (1 << 50):
        raise SpecError(
            f"disk size={element.attributes['size']!r} is not a size from 1M to 1024T",
            place=element.place_of("size"),
            hint="write a whole number and K, M, G or T (powers of 1024)",
        )
    if size % BLOCK:
        raise SpecError(
            f"disk size={element.attributes['size']!r} is no whole number of blocks",
            place=element.place_of("size"),
            hint=f"a multiple of {BLOCK} bytes: write it with K, M, G or T",
        )
    kind = element.get("format") or _DEFAULT_DISK.format
    if kind not in FILESYSTEMS:
        raise SpecError(
            f"disk format={kind!r} is no filesystem of a node",
            place=element.place_of("format"),
            hint=suggestion(kind, FILESYSTEMS) or f"one of {', '.join(FILESYSTEMS)}; a bundle's root may have another",
        )
    return Disk(size, kind)
