"""From a lock to the pins of the nodes that are built with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sfvm.errors import SfvmError, SpecError
from sfvm.lock.model import Lock, Section, contents
from sfvm.repository import Manifest
from sfvm.tree import Node, Pin


class Built(Protocol):
    """What has been built: :class:`sfvm.repository.Repository`."""

    def built(self, key: str) -> bool: ...

    def manifest(self, key: str) -> Manifest: ...


def pins(lock: Lock, path: Path, plain: Sequence[Node], current: Sequence[Node], built: Built) -> Mapping[str, Pin]:
    """The pins for a build of a chain (root first) with its *lock*, read from *path*.

    *plain* are the nodes without any pin, *current* those that a build without the lock would make. One of these that
    is *built* from exactly what the lock names, on a parent of which that is true, too, is what the lock wants:
    it keeps its key and need not be built again. The other nodes may fetch what their own section names, or one of an
    ancestor's: within one appliance a child uses the indexes that its parent has fetched.

    :raises SpecError: the lock does not fit the nodes
    """
    check(lock, path, plain)
    found: dict[str, Pin] = {}
    reachable: Mapping[str, str] = {}
    as_it_is = True
    for node in current:
        section = lock.by_node[node.name]
        if section.contents:
            reachable = {**reachable, **section.mapping}
        as_it_is = as_it_is and built.built(node.key) and _same(section, built.manifest(node.key))
        if as_it_is:
            found[node.name] = Pin(refreshed=node.pin.refreshed, contents=reachable)
        else:
            found[node.name] = Pin(lock=section.digest, contents=reachable)
    return found


def _same(section: Section, manifest: Manifest) -> bool:
    try:
        return {found.url: found.sha256 for found in contents(manifest)} == section.mapping
    except SfvmError:
        return False  # no lock could have been made from it


def check(lock: Lock, path: Path, plain: Sequence[Node]) -> None:
    """:raises SpecError: *lock*, read from *path*, is not that of the chain *plain* (root first, without pins)"""
    sections = lock.by_node
    name = plain[-1].name
    for node in plain:
        section = sections.get(node.name)
        if section is None:
            raise SpecError(
                f"{path} does not lock {node.name}",
                why=f"it was not among the ancestors of {name} then",
                hint=f"sfvm update --write {name}, or sfvm lock {name}",
            )
        if section.key != node.key:
            raise SpecError(
                f"{node.name} is not what was locked any more",
                place=section.place,
                why=_difference(node, section),
                hint=f"give the same params as then, or lock it again: sfvm lock {name}",
            )


def _difference(node: Node, section: Section) -> str:
    now, was = node.definition.arguments, section.arguments
    for param in sorted({*now, *was}):
        if now.get(param) != was.get(param):
            return f"its param {param} was {was.get(param)!r}, and is {now.get(param)!r}"
    return f"its spec, a file that it refers to, or sfvm's way to do one of its steps changed (`sfvm why {node.name}`)"
