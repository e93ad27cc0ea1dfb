"""The state of every node: what the specs say against what the repository has."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from sfvm.cli.options import Options, pins, require
from sfvm.errors import Interrupted, RepositoryError, SfvmError
from sfvm.tree.node import canonical

if TYPE_CHECKING:
    from sfvm.config import Settings
    from sfvm.events import Listener
    from sfvm.managers.waiting import Waiting
    from sfvm.repository import Manifest, Repository
    from sfvm.spec.library import Library
    from sfvm.tree import Node, Pin


@dataclass(frozen=True)
class Entry:
    """A node. *state*: ``built``, ``stale`` (built from other inputs), ``missing``, ``invalid`` (its spec; *note*
    says why) or ``unspecified`` (in the repository, without a spec). *size* is its overlay's bytes. *waiting* are the
    newer packages of what its name stands for, ``name``, ``before``, ``after``, ``security`` each (None: not asked, or
    in vain; *note* says why)."""

    name: str
    parent: str | None
    state: str
    key: str | None = None
    size: int | None = None
    depth: int = 0
    summary: str = ""
    note: str = ""
    waiting: tuple[Waiting, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        if self.waiting is None:
            del found["waiting"]
        return found


def survey(options: Options, names: Sequence[str] = ()) -> list[Entry]:
    """The entries of *names* and their ancestors, parents first; of all specs and all of the repository without
    *names*.

    :raises SfvmError: a node of *names* has no spec or an invalid one
    """
    from sfvm import tree

    library, repository = options.library(), options.open()
    if names:
        require(library, names)
        found = tree.resolve(library, tuple(dict.fromkeys(names)), {}, pins(options))
        return _entries(found, repository)
    nodes, problems = resolve_all(library, pins(options))
    entries = _entries(nodes.values(), repository)
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


def outdated(
    settings: Settings, entries: Sequence[Entry], listener: Listener
) -> tuple[list[Entry], tuple[SfvmError, ...]]:
    """*entries* with what is newer than the packages of those that are in the repository: one appliance is started for
    each that is no ancestor of another. Where one cannot be asked, the entries of which no other tells have a note,
    and the reasons are returned, too.

    :raises SfvmError: the repository cannot be read
    """
    from sfvm.build import outdated as looks
    from sfvm.repository import Repository

    repository = Repository(settings.repository)
    manifests: dict[str, Manifest] = {}
    keys: dict[str, str] = {}
    for entry in entries:
        key = repository.current(entry.name)
        if key and repository.built(key) and (manifest := _manifest(repository, key)):
            keys[entry.name], manifests[key] = key, manifest
    found: dict[str, dict[str, Waiting]] = {}
    failed: dict[str, SfvmError] = {}
    for top in looks.tops(manifests.values()):
        chain = _chain(top, repository)
        try:
            told = looks.look(top, repository, settings, listener)
        except Interrupted:
            raise
        except SfvmError as error:
            error.node = error.node or top.name
            failed.update(dict.fromkeys((manifest.key for manifest in chain), error))
            continue
        for key, waiting in looks.spread(chain, told).items():
            found.setdefault(key, {}).update({one.name: one for one in waiting})

    def asked(entry: Entry) -> Entry:
        key = keys.get(entry.name)
        if key is None:
            return entry
        if key in failed and key not in found:
            why = f"cannot be asked: node {failed[key].node}: {failed[key].what}"
            return replace(entry, note="; ".join(filter(None, (entry.note, why))))
        return replace(entry, waiting=tuple(found.get(key, {}).values()))

    return [asked(entry) for entry in entries], tuple(dict.fromkeys(failed.values()))


def _chain(manifest: Manifest, repository: Repository) -> list[Manifest]:
    chain = [manifest]
    while chain[0].parent is not None and (parent := _manifest(repository, chain[0].parent)):
        chain.insert(0, parent)
    return chain


def _manifest(repository: Repository, key: str) -> Manifest | None:
    """None: it is damaged, which hides no other node; verify tells."""
    try:
        return repository.manifest(key)
    except RepositoryError:
        return None


def resolve_all(library: Library, refreshed: Mapping[str, Pin]) -> tuple[dict[str, Node], dict[str, SfvmError]]:
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
            for node in tree.resolve(library, names, {}, refreshed):
                nodes.setdefault(node.name, node)
        except SfvmError as error:
            if len(names) == 1:
                problems[names[0]] = error
            else:
                middle = len(names) // 2
                pending += [names[middle:], names[:middle]]
    return nodes, problems


def _entries(nodes: Iterable[Node], repository: Repository) -> list[Entry]:
    """The entries of *nodes*, parents first."""
    locked: dict[str, str] = {}
    entries = []
    for node in nodes:
        last = repository.last(node.name)
        key, note = node.key, ""
        if repository.built(node.key):
            state = "built"
            if last and last.get("key") == node.key:
                size = last.get("size")
            elif manifest := _manifest(repository, node.key):
                size = manifest.size
            else:
                size, note = None, "its manifest is damaged, see `sfvm verify`"
        elif last is None:
            state, size, note = "missing", None, node.definition.summary
        elif repository.built(last.get("key", "")) and _locked(node, last, locked):
            state, size, note = "built", last.get("size"), "from its lock"
            key = locked[node.name] = last["key"]
        else:
            state, size, note = "stale", last.get("size"), f"see `sfvm why {node.name}`"
        parent = node.parent.name if node.parent else None
        entries.append(Entry(node.name, parent, state, key, size, node.depth, node.definition.summary, note))
    return entries


def _locked(node: Node, last: Mapping[str, Any], built: Mapping[str, str]) -> bool:
    """Whether *last*, the manifest of a node that is there, is that of *node* but for locks. *built* are the keys of
    ancestors of which that is true."""
    was, now = last["inputs"], json.loads(canonical(node.inputs))
    pinned = dict(was.get("pinned", {}))
    lock = pinned.pop("lock", None)
    if {**was, "parent": None, "pinned": pinned} != {**now, "parent": None, "pinned": now.get("pinned", {})}:
        return False
    if node.parent is None:
        return lock is not None
    below = built.get(node.parent.name)
    return last["parent"] == (below or node.parent.key) and (below or lock) is not None


def _parent(library: Library, name: str) -> str | None:
    """What a spec that is not valid as a whole says of its parent, if it can be read at all."""
    try:
        return library.get(name).parent
    except SfvmError:
        return None
