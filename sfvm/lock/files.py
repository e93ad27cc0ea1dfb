"""Lock files: XML that differs in git where the lock does, read with the same care as a spec."""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import quoteattr

from sfvm import document
from sfvm.document import NAMESPACE, Element
from sfvm.errors import SpecError, UsageError
from sfvm.guest import Package
from sfvm.lock.model import URL, Content, Lock, Section
from sfvm.repository.files import write_atomically, writing
from sfvm.repository.manifest import KEY, NAME

VERSION = "1"
SUFFIX = ".lock.xml"


def path_of(spec: Path, shipped: Path, directory: Path | None = None) -> Path:
    """Where the lock of the spec in the file *spec* is: in *directory*, else beside it, but for one of those that ship
    with sfvm (in the directory *shipped*): there it is the current directory."""
    beside = Path() if spec.parent.resolve() == shipped.resolve() else spec.parent
    return (directory or beside) / f"{spec.stem}{SUFFIX}"


def dump(lock: Lock) -> bytes:
    """The content of a lock file."""
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- Written by `sfvm lock`: exactly what was downloaded. Keep it under version control, beside the spec. -->",
        f'<lock xmlns="{NAMESPACE}" version="{VERSION}">',
    ]
    for section in lock.sections:
        lines.append(f"  <node{_attributes(name=section.node, key=section.key)}>")
        for param, value in sorted(section.arguments.items()):
            lines.append(f"    <param{_attributes(name=param, value=value)}/>")
        for file in section.files:
            lines.append(f"    <file{_attributes(url=file.url, sha256=file.sha256, size=file.size)}/>")
        for package, file in section.packages:
            known = {"name": package.name, "version": package.version, "architecture": package.architecture}
            lines.append(f"    <package{_attributes(**known, url=file.url, sha256=file.sha256, size=file.size)}/>")
        lines.append("  </node>")
    return "\n".join([*lines, "</lock>", ""]).encode()


def _attributes(**values: str | int) -> str:
    return "".join(f" {name}={quoteattr(str(value))}" for name, value in values.items())


def write(lock: Lock, path: Path) -> None:
    """Write the lock file *path*, atomically.

    :raises RepositoryError: it cannot be written
    """
    with writing("the lock", path):
        target = path.resolve()
        write_atomically(target, dump(lock), target.parent)


def read(path: Path, node: str) -> Lock:
    """The lock in the file *path*, which should be that of *node*.

    :raises UsageError: there is none
    :raises SpecError: it is no lock file
    """
    if not path.exists():
        raise UsageError(f"{node} is not locked", why=f"there is no {path}", hint=f"sfvm lock {node}")
    return parse(document.parse(path))


def parse(root: Element) -> Lock:
    """The lock in a document.

    :raises SpecError: it is none
    """
    _expect(root, "lock", "version")
    if root.attributes["version"] != VERSION:
        raise SpecError(
            f"a lock of version {root.attributes['version']!r}",
            place=root.place_of("version"),
            why=f"this sfvm knows version {VERSION}",
            hint="lock it again",
        )
    sections = tuple(_section(element) for element in root.children)
    if not sections:
        raise SpecError("a lock without a node", place=root.place, hint="lock it again")
    if len({section.node for section in sections}) < len(sections):
        raise SpecError("a lock that has a node twice", place=root.place, hint="lock it again")
    return Lock(sections)


def _section(element: Element) -> Section:
    _expect(element, "node", "name", "key")
    arguments: dict[str, str] = {}
    contents: dict[str, Content] = {}
    for child in element.children:
        if child.tag == "param":
            _expect(child, "param", "name", "value")
            arguments[child.attributes["name"]] = child.attributes["value"]
            continue
        content = _content(child)
        if contents.setdefault(content.url, content) is not content:
            raise SpecError(f"{content.url} is there twice", place=child.place, hint="lock it again")
    name = _match(element, "name", NAME)
    return Section(name, _match(element, "key", KEY), arguments, tuple(contents.values()), element.place)


def _content(element: Element) -> Content:
    package = None
    if element.tag == "package":
        _expect(element, "package", "name", "version", "architecture", "url", "sha256", "size")
        package = Package(*(element.attributes[name] for name in ("name", "version", "architecture")))
    else:
        _expect(element, "file", "url", "sha256", "size")
    size = int(_match(element, "size", _SIZE))
    return Content(_match(element, "url", URL), _match(element, "sha256", KEY), size, package)


_SIZE = re.compile(r"[0-9]{1,15}")


def _match(element: Element, name: str, pattern: re.Pattern[str]) -> str:
    value = element.attributes[name]
    if not pattern.fullmatch(value):
        raise SpecError(f"{name}={value[:80]!r} cannot be", place=element.place_of(name), hint="lock it again")
    return value


def _expect(element: Element, tag: str, *attributes: str) -> None:
    """:raises SpecError: the element is another, or has not exactly these attributes"""
    if element.tag != tag:
        raise SpecError(f"<{element.tag}> where <{tag}> should be", place=element.place, hint="lock it again")
    if set(element.attributes) != set(attributes):
        odd = sorted(set(element.attributes) ^ set(attributes))
        raise SpecError(f"<{tag}>: {odd[0]!r} is missing or unknown", place=element.place, hint="lock it again")
