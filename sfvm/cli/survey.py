"""The state of every node: what the specs say against what the repository has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sfvm.cli.options import Options, require
from sfvm.errors import SfvmError

if TYPE_CHECKING:
    from sfvm.repository import Repository
    from sfvm.spec.library import Library
    from sfvm.tree import Node


@dataclass(frozen=True)
class Entry:
    """A node. *state*: ``built``, ``stale`` (built from other inputs), ``missing``, ``invalid`` (its spec; *note*
    says why) or ``unspecified`` (in the repository, without a spec). *size* is its overlay's bytes."""

    name: str
    parent: str | None
    state: str
    key: str | None = None
    size: int | None = None
    depth: int = 0
    summary: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def survey(options: Options, names: Sequence[str] = ()) -> list[Entry]:
    """The entries of *names* and their ancestors, parents first; of all specs and all of the repository without
    *names*.

    :raises SfvmError: a node of *names* has no spec or an invalid one
    """
    from sfvm import tree

    library, repository = options.library(), options.open()
    if names:
        require(library, names)
        return [_entry(node, repository) for node in tree.resolve(library, tuple(dict.fromkeys(names)), {})]
    nodes, problems = resolve_all(library)
    entries = [_entry(node, repository) for node in nodes.values()]
    entries += [Entry(name, _parent(library, name), "invalid", note=str(e.what)) for name, e in problems.items()]
    known = {entry.name for entry in entries}
    for name in sorted(set(repository.names()) - known):
        last = repository.last(name)
        if last is not None:
            entries.append(
                Entry(
                    name,
                    last.get("parent_name"),
                    "unspecified",
                    last.get("key"),
                    last.get("size"),
                    last.get("depth", 0),
                    note="no spec",
                )
            )
    return entries


def resolve_all(library: Library) -> tuple[dict[str, Node], dict[str, SfvmError]]:
    """Every node by name, parents first, and what is wrong with the specs that give none.

    All at once where all is well; else by halves, so that one bad spec does not hide the others.
    """
    from sfvm import tree

    nodes: dict[str, Node] = {}
    problems: dict[str, SfvmError] = {}
    pending = [library.names()]
    while pending:
        names = pending.pop()
        try:
            for node in tree.resolve(library, names, {}):
                nodes.setdefault(node.name, node)
        except SfvmError as error:
            if len(names) == 1:
                problems[names[0]] = error
            else:
                middle = len(names) // 2
                pending += [names[middle:], names[:middle]]
    return nodes, problems


def _entry(node: Node, repository: Repository) -> Entry:
    last = repository.last(node.name)
    if repository.built(node.key):
        size = last.get("size") if last and last.get("key") == node.key else repository.manifest(node.key).size
        state, note = "built", ""
    elif last is not None:
        state, size, note = "stale", last.get("size"), f"see `sfvm why {node.name}`"
    else:
        state, size, note = "missing", None, node.definition.summary
    parent = node.parent.name if node.parent else None
    return Entry(node.name, parent, state, node.key, size, node.depth, node.definition.summary, note)


def _parent(library: Library, name: str) -> str | None:
    """What a spec that is not valid as a whole says of its parent, if it can be read at all."""
    try:
        return library.get(name).parent
    except SfvmError:
        return None
