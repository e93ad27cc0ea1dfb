"""XML documents as small values with positions: the safe door through which every spec comes in.

No DTD, no entities beyond XML's five, no network, bounded size and depth (expat refuses a document type declaration
before anything of it is processed). lxml validates; expat gives the columns that lxml does not have.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from xml.parsers import expat

from sfvm.errors import Place, SpecError

NAMESPACE = "urn:sfvm:1"
MAX_BYTES = 4 << 20
MAX_DEPTH = 100
MAX_ELEMENTS = 100_000

NO_EXPRESSION = (re.error, OverflowError, RecursionError)
"""What Python raises of a regular expression that is none, counts too far, or is too deep."""
_ATTRIBUTE = re.compile(r"""\s+([^\s=/>]+)\s*=\s*(?:"[^"]*"|'[^']*')""")
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Element:
    """An element in the namespace ``urn:sfvm:1``.

    *text* is the element's own character data (all of it, children's excluded); *directory* is what relative file
    references are resolved against (``xml:base``, else the directory of the file). *variables* are those in effect
    where the element stands: empty until expansion sets them.
    """

    tag: str
    attributes: Mapping[str, str]
    text: str
    children: tuple[Element, ...]
    place: Place
    directory: Path
    variables: Mapping[str, str] = field(default_factory=lambda: _NOTHING)

    def get(self, name: str, default: str | None = None) -> str | None:
        return self.attributes.get(name, default)

    def iter(self) -> Iterator[Element]:
        """This element and all below it, in document order."""
        yield self
        for child in self.children:
            yield from child.iter()

    def words(self, name: str) -> tuple[str, ...]:
        """The attribute *name* split at white space."""
        return tuple(self.attributes.get(name, "").split())

    def shell_words(self, name: str, default: str = "") -> tuple[str, ...]:
        """The attribute *name* (where it is absent or empty: *default*), split as a shell splits words.

        :raises SpecError: a quote is open
        """
        try:
            return tuple(shlex.split(self.get(name) or default))
        except ValueError as error:
            raise SpecError(
                f"{name} cannot be read", place=self.place_of(name), why=str(error), hint="close the quotes"
            ) from None

    def flag(self, name: str, default: bool = False) -> bool:
        """The attribute *name* as yes or no."""
        return {"yes": True, "no": False}.get(self.attributes.get(name, ""), default)

    def place_of(self, name: str) -> Place:
        """Where the attribute *name* is written; the element's own place when the file does not tell any more."""
        try:
            lines = self.place.path.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            return self.place
        text = "\n".join(lines[self.place.line - 1 :])
        position = text.find(self.tag, self.place.column - 1) + len(self.tag)
        while match := _ATTRIBUTE.match(text, position):
            if match[1] == name:
                before = text[: match.start(1)]
                column = len(before) - (before.rfind("\n") + 1) + 1
                return Place(self.place.path, self.place.line + before.count("\n"), column)
            position = match.end()
        return self.place

    def file(self, name: str) -> Path:
        """The host path that attribute *name* refers to: below :attr:`directory`, symlinks followed and checked.

        :raises SpecError: when it is missing or leaves the spec's directory
        """
        return self._file(name, self.attributes[name])

    def files(self, name: str) -> tuple[Path, ...]:
        """The same for every word of the attribute *name*."""
        return tuple(self._file(name, word) for word in self.words(name))

    def _file(self, name: str, reference: str) -> Path:
        root = self.directory.resolve()
        path = resolve(root / reference, self.place)
        if not path.is_relative_to(root):
            raise SpecError(
                f"{self.tag} {name}={reference!r} leaves the spec's directory",
                place=self.place_of(name),
                why=f"it is {path}, outside {root}",
                hint="copy what the spec needs next to it",
            )
        if not path.exists():
            raise SpecError(
                f"{self.tag} {name}={reference!r} does not exist",
                place=self.place_of(name),
                why=f"there is no {path}",
                hint=f"create it, or correct {name}",
            )
        return path


def resolve(path: Path, place: Place) -> Path:
    """*path* with symlinks followed, existing or not; *place* is where it is referred to.

    :raises SpecError: when following it fails (a loop of symlinks, no permission, a name too long)
    """
    try:
        path = path.resolve()
        path.exists()  # may fail where resolve() gave up quietly
    except (OSError, RuntimeError) as error:  # a loop is a RuntimeError until Python 3.13
        reason = error.strerror if isinstance(error, OSError) else "a loop of symbolic links"
        raise SpecError(f"{path} cannot be followed", place=place, why=reason, hint="correct the reference") from None
    return path


@dataclass
class _Open:
    tag: str
    attributes: dict[str, str]
    place: Place
    directory: Path
    text: list[str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)


def parse(path: Path, content: bytes | None = None) -> Element:
    """Parse the file at *path* (or *content*, named as *path* in messages).

    :raises SpecError: not well-formed, a DTD or entity, a foreign namespace, too large or too deep
    """
    if content is None:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise SpecError(f"{path} is larger than {MAX_BYTES >> 20} MiB", hint="a spec refers to large files")
            content = path.read_bytes()
        except OSError as error:
            raise SpecError(f"{path} cannot be read", why=error.strerror) from error
    return _Reader(path).read(content)


class _Reader:
    """One pass of expat over one document."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[_Open] = []
        self.count = 0
        self.root: Element | None = None
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self.start
        self.parser.EndElementHandler = self.end
        self.parser.CharacterDataHandler = self.characters
        self.parser.StartDoctypeDeclHandler = self.doctype

    def here(self) -> Place:
        return Place(self.path, self.parser.CurrentLineNumber, self.parser.CurrentColumnNumber + 1)

    def read(self, content: bytes) -> Element:
        try:
            self.parser.Parse(content, True)
        except expat.ExpatError as error:
            place = Place(self.path, error.lineno, error.offset + 1)
            message = expat.errors.messages.get(error.code, str(error))
            raise SpecError(
                "not well-formed XML", place=place, why=message, hint="correct the XML at the caret"
            ) from None
        except (LookupError, ValueError):  # expat asks Python for encodings that it does not know itself
            raise SpecError(
                "an encoding that is not understood", place=Place(self.path, 1), hint="write it in UTF-8"
            ) from None
        finally:
            del self.parser  # its handlers refer to us: free both now
        assert self.root is not None  # expat has seen a whole document
        return self.root

    def doctype(self, *_: object) -> None:
        raise SpecError(
            "a document type declaration is not allowed in a spec",
            place=self.here(),
            why="DTDs and entities could read files or exhaust memory",
            hint="remove <!DOCTYPE …>; use <param> and <include> instead of entities",
        )

    def start(self, name: str, attributes: dict[str, str]) -> None:
        place = self.here()
        if len(self.stack) >= MAX_DEPTH:
            raise SpecError(
                f"elements are nested deeper than {MAX_DEPTH}", place=place, hint="split the spec with <include>"
            )
        self.count += 1
        if self.count > MAX_ELEMENTS:
            raise SpecError(
                f"more than {MAX_ELEMENTS} elements", place=place, hint="split the spec with <include> or a parent"
            )
        namespace, _, tag = name.rpartition(" ")
        if namespace != NAMESPACE:
            raise SpecError(
                f"element {tag!r} is not in the namespace {NAMESPACE}",
                place=place,
                hint=f'write xmlns="{NAMESPACE}" on the root element',
            )
        directory = self.stack[-1].directory if self.stack else self.path.parent
        own: dict[str, str] = {}
        for key, value in attributes.items():
            if key == "http://www.w3.org/XML/1998/namespace base":
                directory = self.base(directory / value, value, place)
            else:
                own[key.replace(" ", ":")] = value
        self.stack.append(_Open(tag, own, place, directory))

    def base(self, directory: Path, value: str, place: Place) -> Path:
        root = self.path.parent.resolve()
        target = resolve(directory, place)
        if not target.is_relative_to(root):
            raise SpecError(
                f"xml:base={value!r} leaves the spec's directory",
                place=place,
                why=f"it is {target}, outside {root}",
                hint="copy what the spec needs next to it",
            )
        return directory

    def characters(self, data: str) -> None:
        self.stack[-1].text.append(data)

    def end(self, _: str) -> None:
        done = self.stack.pop()
        element = Element(
            done.tag,
            MappingProxyType(done.attributes),
            "".join(done.text),
            tuple(done.children),
            done.place,
            done.directory,
        )
        if self.stack:
            self.stack[-1].children.append(element)
        else:
            self.root = element
