"""A lock as values, and how it is made from what was fetched while nodes were built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sfvm.errors import Place, SfvmError
from sfvm.guest import Package
from sfvm.lock.names import complete, package_of
from sfvm.repository import Manifest
from sfvm.tree import Node
from sfvm.tree.node import digest

URL = re.compile(r"(https?|sftp|docker)://[!-~]{1,4096}")
"""What a lock may name: printable ASCII without blanks."""
UNLOCKABLE = "what was fetched for it cannot be locked"


@dataclass(frozen=True)
class Content:
    """What *url* had: *sha256* and *size* in bytes. *package* tells which one it is (None: metadata of a repository,
    or anything else)."""

    url: str
    sha256: str
    size: int
    package: Package | None = None


@dataclass(frozen=True)
class Section:
    """What one *node* has fetched. *key* is the node's without any pin: it says for which inputs this holds; of them,
    *arguments* are the values of its params. *place* is where it stands in a file."""

    node: str
    key: str
    arguments: Mapping[str, str]
    contents: tuple[Content, ...]
    place: Place | None = None

    @property
    def files(self) -> tuple[Content, ...]:
        """What is no package, by URL."""
        return tuple(sorted((found for found in self.contents if found.package is None), key=lambda found: found.url))

    @property
    def packages(self) -> tuple[tuple[Package, Content], ...]:
        """The packages by name, architecture and version."""
        found = [(content.package, content) for content in self.contents if content.package is not None]
        return tuple(sorted(found, key=lambda one: (one[0].name, one[0].architecture, one[0].version, one[1].url)))

    @property
    def mapping(self) -> Mapping[str, str]:
        """The SHA-256 of each URL."""
        return {content.url: content.sha256 for content in self.contents}

    @property
    def digest(self) -> str:
        """Tells this choice of contents from any other, as that of none at all."""
        return digest(["lock", sorted(self.mapping.items())])


@dataclass(frozen=True)
class Lock:
    """The *sections* of a node and its ancestors, root first."""

    sections: tuple[Section, ...]

    @property
    def by_node(self) -> Mapping[str, Section]:
        return {section.node: section for section in self.sections}

    @property
    def digests(self) -> frozenset[str]:
        """The SHA-256 of everything it names."""
        return frozenset(content.sha256 for section in self.sections for content in section.contents)


class TwoContents(SfvmError):
    """A URL had two contents while a node was built. Of another build a lock may be made."""


def make(nodes: Sequence[Node], manifests: Mapping[str, Manifest]) -> Lock:
    """The lock of *nodes* (a chain, root first, without pins) from the *manifests* of their builds, by name.

    :raises SfvmError: something was fetched that cannot be fetched again for sure
    """
    return Lock(tuple(section(node, manifests[node.name]) for node in nodes))


def section(node: Node, manifest: Manifest) -> Section:
    """The section of *node* (without pins) from the *manifest* of its build.

    :raises SfvmError: see :func:`make`
    """
    return Section(node.name, node.key, dict(node.definition.arguments), contents(manifest))


def contents(manifest: Manifest) -> tuple[Content, ...]:
    """What was fetched for the node of *manifest*, each URL once.

    :raises SfvmError: see :func:`make`
    """
    installed: dict[str, list[Package]] = {}
    for words in manifest.packages:
        installed.setdefault(words[0], []).append(Package(*words))
    found: dict[str, Content] = {}
    for fetched in manifest.fetched:
        if fetched.tunnel:
            raise _unlockable(manifest, f"{fetched.url} came through a tunnel, whose content sfvm does not see")
        if not URL.fullmatch(fetched.url):
            raise _unlockable(manifest, f"{fetched.url!r} is no plain URL")
        before = found.get(fetched.url)
        if before is not None and before.sha256 != fetched.sha256:
            raise TwoContents(
                UNLOCKABLE,
                node=manifest.name,
                why=f"{fetched.url} had two contents while it was built",
                hint=f"sfvm refresh {manifest.name}, and again: it is built anew",
            )
        package = package_of(fetched.url)
        package = package and complete(package, installed.get(package.name, ()))
        found[fetched.url] = Content(fetched.url, fetched.sha256, fetched.size, package)
    return tuple(found.values())


def _unlockable(manifest: Manifest, why: str) -> SfvmError:
    hint = (
        "where a package manager was sent by an index of mirrors, name one (--param mirror=…); else see docs/locking.md"
    )
    return SfvmError(UNLOCKABLE, node=manifest.name, why=why, hint=hint)


def merged(sections: Iterable[Section]) -> Mapping[str, str]:
    """The SHA-256 of each URL of all *sections*; where several name one, the last counts."""
    found: dict[str, str] = {}
    for one in sections:
        found.update(one.mapping)
    return found
