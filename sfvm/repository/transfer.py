"""A node and its ancestors in one file.

The file is a zstd stream of a plain tar: ``index.json``, then for each node, root first, ``nodes/<key>.json`` and
``layers/<key>.qcow2``. The index has the size and SHA-256 of every member, in this order. Only this order, these names
and regular files are taken in; a size is known before anything is read; an overlay's header is parsed in Python and
may name nothing but the overlay of its parent: QEMU never opens what could make it read another file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sfvm import qcow2, safejson
from sfvm.errors import RepositoryError, SfvmError
from sfvm.repository.files import temporary, writing
from sfvm.repository.manifest import KEY, Manifest
from sfvm.tree import node as tree

if TYPE_CHECKING:
    from sfvm.repository.store import Repository

FORMAT = "sfvm export"
VERSION = 1
MAX_INDEX = 64 << 20
MAX_MANIFEST = 64 << 20
CHUNK = 1 << 20
BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Member:
    """A file in the export."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A node in the index."""

    key: str
    parent: str | None
    manifest: Member
    overlay: Member


# Out


def export(repository: Repository, key: str, file: Path) -> None:
    """See :meth:`Repository.export`."""
    chain = [repository.manifest(key)]
    while chain[-1].parent is not None:
        chain.append(repository.manifest(chain[-1].parent))
    copies: list[Path] = []
    draft = temporary(file.absolute().parent, f".{file.name}")
    try:
        parts = [_prepare(repository, manifest, copies) for manifest in reversed(chain)]
        with writing("the export", file.absolute().parent):
            with draft.open("xb") as raw:
                _write(raw, key, parts)
                raw.flush()
                os.fsync(raw.fileno())
            draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)
        for copy in copies:
            copy.unlink(missing_ok=True)


def _prepare(repository: Repository, manifest: Manifest, copies: list[Path]) -> tuple[Manifest, Path]:
    """The manifest and overlay to export: where the overlay names the parent's flattened twin, a copy that names the
    parent itself."""
    path = repository.overlay(manifest.key)
    if manifest.parent is None or qcow2.header(path).backing == f"{manifest.parent}.qcow2":
        return manifest, path
    if qcow2.digest(path) != manifest.digest:
        raise _damaged_here(manifest)
    copy = temporary(repository.temporary(), path.name)
    copies.append(copy)
    with writing("a copy for the export", repository.root):
        shutil.copyfile(path, copy)
    qcow2.rebase(copy, repository.overlay(manifest.parent), name=f"{manifest.parent}.qcow2")
    return dataclasses.replace(manifest, digest=qcow2.digest(copy), size=copy.stat().st_size), copy


def _write(raw: IO[bytes], key: str, parts: list[tuple[Manifest, Path]]) -> None:
    import zstandard

    manifests = {manifest.key: manifest.dump() for manifest, _ in parts}
    nodes = [
        {
            "key": manifest.key,
            "name": manifest.name,
            "parent": manifest.parent,
            "manifest": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()},
            "overlay": {"size": manifest.size, "sha256": manifest.digest},
        }
        for (manifest, _), content in zip(parts, manifests.values(), strict=True)
    ]
    index = json.dumps({"format": FORMAT, "version": VERSION, "node": key, "nodes": nodes}).encode()
    with zstandard.ZstdCompressor(level=3, threads=-1).stream_writer(raw, closefd=False) as stream:
        _add(stream, "index.json", index)
        for manifest, path in parts:
            _add(stream, f"nodes/{manifest.key}.json", manifests[manifest.key])
            stream.write(_tar_header(f"layers/{manifest.key}.qcow2", manifest.size))
            digest = hashlib.sha256()
            left = manifest.size
            with path.open("rb") as reader:
                while left and (chunk := reader.read(min(CHUNK, left))):
                    digest.update(chunk)
                    stream.write(chunk)
                    left -= len(chunk)
            if left or digest.hexdigest() != manifest.digest:
                raise _damaged_here(manifest)
            stream.write(bytes(-manifest.size % BLOCK))
        stream.write(bytes(2 * BLOCK))


def _add(stream: Any, name: str, content: bytes) -> None:
    stream.write(_tar_header(name, len(content)) + content + bytes(-len(content) % BLOCK))


def _tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o444
    return info.tobuf(tarfile.GNU_FORMAT)


def _damaged_here(manifest: Manifest) -> RepositoryError:
    return RepositoryError(
        "its overlay's bytes have changed since it was built",
        node=manifest.name,
        hint="sfvm verify --repair, then build the node again",
    )


# In


def import_(repository: Repository, file: Path) -> tuple[str, ...]:
    """See :meth:`Repository.import_`."""
    import zstandard

    try:
        with file.open("rb") as raw:
            reader = _Reader(file, zstandard.ZstdDecompressor().stream_reader(raw))
            wanted, entries = reader.index()
            repository.require_space(sum(entry.overlay.size for entry in entries), f"the nodes of {file}")
            with repository.lease(entry.key for entry in entries):
                names = _take(repository, reader, entries)
                tip = repository.manifest(wanted)
                repository.point(tip.name, wanted)
            return names
    except zstandard.ZstdError as error:
        raise _refuse(file, f"it is no intact zstd stream ({error})") from None
    except OSError as error:
        raise RepositoryError(f"{file} cannot be read", why=error.strerror) from error


def _take(repository: Repository, reader: _Reader, entries: list[Entry]) -> tuple[str, ...]:
    known: dict[str, Manifest] = {}
    for entry in entries:
        content = reader.read(entry.manifest)
        try:
            manifest = Manifest.parse(content)
        except ValueError as error:
            raise _refuse(reader.file, f"the manifest of {entry.key[:12]} is damaged: {error}") from None
        _check_manifest(reader.file, entry, manifest, known)
        known[entry.key] = manifest
        draft = temporary(repository.temporary(), f"{entry.key}.qcow2")
        try:
            with writing("an imported node", repository.root):
                reader.copy(entry.overlay, draft)
            _check_overlay(reader.file, entry, manifest, draft)
            with repository.lock(entry.key, lambda holder: None):
                if not repository.built(entry.key):
                    repository.publish(entry.key, draft, manifest)
                    if repository.current(manifest.name) is None:
                        repository.point(manifest.name, entry.key)
            if repository.manifest(entry.key).origin != manifest.origin:
                raise RepositoryError(
                    "it is here already, built from the same spec but with other bytes",
                    node=manifest.name,
                    why="the imported descendants fit only the bytes that they were built on",
                    hint=f"import into another repository (--repository DIR), or `sfvm rm {manifest.name} && sfvm gc`",
                )
        finally:
            draft.unlink(missing_ok=True)
    return tuple(manifest.name for manifest in known.values())


def _check_manifest(file: Path, entry: Entry, manifest: Manifest, known: dict[str, Manifest]) -> None:
    parent = known.get(entry.parent) if entry.parent else None
    wrong = [
        (manifest.key != entry.key, "its manifest has another key"),
        (manifest.parent != entry.parent, "its manifest has another parent"),
        ((manifest.size, manifest.digest) != (entry.overlay.size, entry.overlay.sha256), "its overlay is another"),
        (parent is not None and manifest.parent_origin != parent.origin, "it was built on another build of its parent"),
        (manifest.depth != (parent.depth + 1 if parent else 0), f"its depth is {manifest.depth}"),
        (parent is not None and manifest.disk < parent.disk, "its disk is smaller than its parent's"),
        (manifest.inputs.get("version") != tree.VERSION, "another version of sfvm made its key"),
        (not _keyed(manifest), "its key does not follow from its inputs"),
    ]
    for is_wrong, why in wrong:
        if is_wrong:
            raise _refuse(file, f"node {manifest.name} {entry.key[:12]}: {why}")


def _keyed(manifest: Manifest) -> bool:
    """Whether the key follows from the inputs (see :mod:`sfvm.tree.node`), and all of them are of the form that
    :func:`sfvm.tree.explain` goes through."""
    inputs = manifest.inputs
    try:
        base, steps, pinned = inputs["base"], inputs["steps"], inputs.get("pinned", {})
        parent = inputs["parent"] and (inputs["parent"]["name"], inputs["parent"]["key"])
        if parent != (manifest.parent and (manifest.parent_name, manifest.parent)):
            return False
        if not all(isinstance(found, dict) for found in (inputs["arguments"], pinned, *steps)):
            return False
        if base is not None:
            _meaning(base)
        key = base_key = tree.start(manifest.parent, base, inputs["disk"], pinned)
        for step in steps:
            key = tree.digest(["step", key, _meaning(step)])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return manifest.key == (key if steps else tree.digest(["node", base_key]))


def _meaning(verb: Mapping[str, Any]) -> dict[str, Any]:
    return {name: verb[name] for name in ("element", "version", "inputs")}


def _check_overlay(file: Path, entry: Entry, manifest: Manifest, path: Path) -> None:
    """:raises RepositoryError: unless QEMU, opening *path*, opens nothing but the chain of the parent"""
    try:
        header = qcow2.require_plain(path)
        expected = f"{entry.parent}.qcow2" if entry.parent else None
        if header.backing != expected:
            raise _refuse(file, f"the overlay of {manifest.name} names the backing file {header.backing!r}")
        if header.backing is not None and header.backing_format != "qcow2":
            raise _refuse(file, f"the overlay of {manifest.name} does not say that its backing file is qcow2")
        if header.size != manifest.disk:
            raise _refuse(file, f"the overlay of {manifest.name} is a disk of {header.size} bytes")
        qcow2.check(path)
    except RepositoryError:
        raise
    except SfvmError as error:
        raise _refuse(file, f"the overlay of {manifest.name}: {error.why}") from error


def _refuse(file: Path, why: str) -> RepositoryError:
    return RepositoryError(f"{file} is not imported", why=why, hint="export it again from a repository that verifies")


class _Reader:
    """The members, one after the other. Headers are parsed with tarfile, one block at a time, but tarfile never
    decides what is read: extended headers could have any size."""

    def __init__(self, file: Path, stream: Any) -> None:
        self.file = file
        self.stream = stream

    def index(self) -> tuple[str, list[Entry]]:
        """The wanted node's key, and the nodes, root first.

        :raises RepositoryError: it is no export, of a newer version, or inconsistent
        """
        size = self._header("index.json")
        if size > MAX_INDEX:
            raise _refuse(self.file, f"an index of {size} bytes")
        try:
            index = safejson.loads(b"".join(self._content(size)))
            if index["format"] != FORMAT or index["version"] != VERSION:
                why = f"it is of format {index['format']!r} {index['version']!r}; this sfvm knows {FORMAT} {VERSION}"
                raise _refuse(self.file, why)
            entries = [_entry(node) for node in index["nodes"]]
            wanted = str(index["node"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise _refuse(self.file, f"its index is damaged ({error!r})") from None
        if not entries or wanted != entries[-1].key:
            raise _refuse(self.file, "its index does not end with the exported node")
        for parent, entry in zip([None, *(entry.key for entry in entries)], entries, strict=False):
            if entry.parent != parent:
                raise _refuse(self.file, f"node {entry.key[:12]} does not follow its parent")
        if len({entry.key for entry in entries}) != len(entries):
            raise _refuse(self.file, "a node occurs twice")
        return wanted, entries

    def read(self, member: Member) -> bytes:
        """A small member's content, verified."""
        if member.size > MAX_MANIFEST:
            raise _refuse(self.file, f"{member.name} has {member.size} bytes")
        return b"".join(self._verified(member))

    def copy(self, member: Member, target: Path) -> None:
        """Write a member's content to the new file *target*, verified."""
        with target.open("xb") as writer:
            for chunk in self._verified(member):
                writer.write(chunk)

    def _verified(self, member: Member) -> Iterator[bytes]:
        if self._header(member.name) != member.size:
            raise _refuse(self.file, f"{member.name} is not as long as its index says")
        digest = hashlib.sha256()
        for chunk in self._content(member.size):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != member.sha256:
            raise _refuse(self.file, f"{member.name} has not the sha256 that its index says")

    def _header(self, name: str) -> int:
        """The size of the next member, which must be the regular file *name*."""
        try:
            info = tarfile.TarInfo.frombuf(self._exactly(BLOCK), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise _refuse(self.file, f"where {name} should be is no tar header ({error})") from None
        if info.name != name or info.type != tarfile.REGTYPE or info.size < 0:
            raise _refuse(self.file, f"it contains {info.name!r} where {name} should be")
        return info.size

    def _content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._exactly(min(CHUNK, left))
            left -= len(chunk)
            yield chunk
        self._exactly(-size % BLOCK)

    def _exactly(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.stream.read(size)
            if not part:
                raise _refuse(self.file, "it ends too early")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _entry(node: dict[str, Any]) -> Entry:
    key, parent = node["key"], node["parent"]
    members = []
    for kind, name in (("manifest", f"nodes/{key}.json"), ("overlay", f"layers/{key}.qcow2")):
        size, sha256 = node[kind]["size"], node[kind]["sha256"]
        if not isinstance(size, int) or size < 0 or not KEY.fullmatch(sha256):
            raise ValueError(f"size or sha256 of {name}")
        members.append(Member(name, size, sha256))
    if not KEY.fullmatch(key) or (parent is not None and not KEY.fullmatch(parent)):
        raise ValueError("a key")
    return Entry(key, parent, members[0], members[1])
