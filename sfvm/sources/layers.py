"""The layers of a container image as one tar: what the last of them leaves, and nothing else.

OCI image-spec, "Image Layer Filesystem Changeset": a layer adds and replaces; ``.wh.NAME`` removes NAME of the layers
below, ``.wh..wh..opq`` all that they have in its directory. The tree is put together of names alone, so a symlink leads
only where it would in the guest; then each layer is read once more, and what has survived is written.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sfvm.archives import DAMAGE, MAX_HOPS, TooLarge, members, opened
from sfvm.cancellation import NEVER, Cancellation

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
ATTRIBUTES = "SCHILY.xattr.", "SCHILY.acl."
"""The extended headers that are kept: tarfile writes those for names and sizes itself."""
LONGEST = 4096
"""Bytes of a path, as Linux has it."""
MOST = 2 << 30
EACH = 256
"""Bytes of memory that names may take, all layers together, and that one does besides its length, roughly."""


class Refused(ValueError):
    """A layer has what it must not have; the message tells the layer and the member."""


@dataclass(frozen=True, slots=True)
class Member:
    """What is held of a member until its layer is read: tarfile's own has all of its extended header. *kind* is tar's
    type, *target* that of a link."""

    name: str
    kind: bytes
    size: int
    target: str


@dataclass(eq=False, slots=True)
class Inode:
    """What one member of one layer is: number *member* of *layer*; *size* in bytes, *target* of a symlink, whether it
    is a *device*."""

    layer: int
    member: int
    size: int = 0
    target: str | None = None
    device: bool = False


@dataclass(eq=False, slots=True)
class Node:
    """A name in the tree; *children* are those of a directory, whose *inode* is None when no layer has told it."""

    inode: Inode | None = None
    children: dict[str, Node] | None = None


def flatten(layers: Sequence[Path], target: Path, limit: int, *, stop: Cancellation = NEVER) -> None:
    """Write what *layers*, the lowest first, come to into the new tar file *target*.

    :raises Refused: a member is absolute, has ``..``, is a device and not below dev, …
    :raises TooLarge: a layer, or all of them together, unpack to more than *limit* bytes
    :raises OSError: *target* cannot be written
    :raises Cancelled: *stop* asks for it
    """
    tree = _Tree()
    for number, path in enumerate(layers):
        for index, member in _members(path, number, limit, stop):
            tree.note(number, index, member)
        tree.apply(number)
    places = tree.places()
    size = sum(inode.size for inode in tree.survivors)
    if size > limit:
        raise TooLarge(f"it unpacks to more than {limit >> 20} MiB")
    try:
        with target.open("xb") as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as out:
            for number, path in enumerate(layers):
                for index, member in _members(path, number, limit, stop):
                    if paths := places.get((number, index)):
                        _copy(out, number, member, paths)
    except BaseException:
        target.unlink(missing_ok=True)
        raise


def _members(
    path: Path, number: int, limit: int, stop: Cancellation
) -> Iterator[tuple[int, tuple[tarfile.TarInfo, tarfile.TarFile]]]:
    """The members of a layer with their numbers; each may be read until the next one is asked for.

    :raises Refused: it is no tar, or damaged
    """
    try:
        with opened(path, limit) as archive:
            for index, member in enumerate(members(archive)):
                stop.check()
                yield index, (member, archive)
    except DAMAGE as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"layer {number + 1} is no tar archive, or damaged ({error})") from error


def _copy(out: tarfile.TarFile, number: int, found: tuple[tarfile.TarInfo, tarfile.TarFile], paths: list[str]) -> None:
    """:raises Refused: it has what cannot be written, a time that is no number or a map of holes out of order"""
    try:
        _write(out, found, paths)
    except OSError:
        raise
    except DAMAGE as error:
        raise _refused(number, found[0], str(error)) from error


def _write(out: tarfile.TarFile, found: tuple[tarfile.TarInfo, tarfile.TarFile], paths: list[str]) -> None:
    """The member at the first of *paths*, and hard links to it at the others."""
    member, archive = found
    content = archive.extractfile(member) if member.isreg() else None
    info = tarfile.TarInfo(paths[0])
    for name in ("mode", "uid", "gid", "mtime", "linkname", "devmajor", "devminor"):
        setattr(info, name, getattr(member, name))
    info.type = tarfile.REGTYPE if member.isreg() else member.type  # a sparse one is written whole
    info.size = member.size if member.isreg() else 0
    info.pax_headers = {name: text for name, text in member.pax_headers.items() if name.startswith(ATTRIBUTES)}
    out.addfile(info, content)
    for path in paths[1:]:
        link = tarfile.TarInfo(path)
        link.type, link.linkname = tarfile.LNKTYPE, paths[0]
        out.addfile(link)
    vars(out)["members"].clear()


@dataclass
class _Tree:
    root: Node = field(default_factory=lambda: Node(children={}))
    layer: list[tuple[int, Member]] = field(default_factory=list)
    survivors: set[Inode] = field(default_factory=set)
    held: int = 0

    def note(self, number: int, index: int, found: tuple[tarfile.TarInfo, tarfile.TarFile]) -> None:
        """The layer *number* has this member."""
        member = found[0]
        if member.name.startswith("/") or ".." in member.name.split("/") or len(member.name) > LONGEST:
            raise _refused(number, member, "it would be written outside")
        if len(member.linkname) > LONGEST:
            raise _refused(number, member, "it is a link to a name that is too long")
        self._hold(len(member.name) + len(member.linkname))
        self.layer.append((index, Member(member.name, member.type, member.size, member.linkname)))

    def _hold(self, size: int) -> None:
        """:raises Refused: with *size* bytes more it is too much"""
        self.held += EACH + size
        if self.held > MOST:
            raise Refused("its layers have too many names, or too long ones")

    def apply(self, number: int) -> None:
        """Change the tree as the layer whose members have been noted says: what it removes comes first, for that means
        the layers below."""
        noted, self.layer = self.layer, []
        for _, member in noted:
            parts = _parts(member.name)
            if parts and parts[-1].startswith(WHITEOUT):
                self._remove(parts)
        for index, member in noted:
            parts = _parts(member.name)
            if not parts or not parts[-1].startswith(WHITEOUT):
                self._add(number, index, member, parts)

    def _remove(self, parts: list[str]) -> None:
        found = self._walk(parts[:-1], make=False)
        if found is None or found[0].children is None:
            return
        if parts[-1] == OPAQUE:
            found[0].children.clear()
        else:
            found[0].children.pop(parts[-1].removeprefix(WHITEOUT), None)

    def _add(self, number: int, index: int, member: Member, parts: list[str]) -> None:
        size = member.size if member.kind in tarfile.REGULAR_TYPES else 0
        target = member.target if member.kind == tarfile.SYMTYPE else None
        inode = Inode(number, index, size, target, member.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE))
        if not parts:
            if member.kind == tarfile.DIRTYPE:
                self.root.inode = inode
            return
        found = self._walk(parts[:-1], make=True)
        if found is None or (names := found[0].children) is None:
            raise _refused(number, member, "its directory is none")
        if member.kind == tarfile.LNKTYPE:
            inode = self._linked(number, member)
        if inode.device and found[1][:1] != ["dev"]:
            raise _refused(number, member, "it is a device, and not below dev")
        before = names.get(parts[-1])
        if member.kind == tarfile.DIRTYPE:
            if before is not None and before.children is not None:
                before.inode = inode
            else:
                names[parts[-1]] = Node(inode, {})
        else:
            names[parts[-1]] = Node(inode)

    def _linked(self, number: int, member: Member) -> Inode:
        name = member.target
        parts = _parts(name)
        outside = name.startswith("/") or ".." in parts or not parts
        found = None if outside else self._walk(parts[:-1], make=False)
        node = found[0].children.get(parts[-1]) if found is not None and found[0].children is not None else None
        if node is None or node.inode is None or node.children is not None:
            raise _refused(number, member, f"it is a hard link to {name!r}, which is no file")
        return node.inode

    def _walk(self, parts: list[str], *, make: bool) -> tuple[Node, list[str]] | None:
        """The directory at *parts* and its real path, symlinks followed as in the guest; None when there is none.
        *make*: what is missing is made."""
        way: list[tuple[str, Node]] = []
        rest = parts[::-1]
        hops = 0
        while rest:
            part = rest.pop()
            if part == "..":
                del way[-1:]  # / is above itself
                continue
            node = way[-1][1] if way else self.root
            if node.children is None:
                return None
            child = node.children.get(part)
            if child is None:
                if not make:
                    return None
                self._hold(len(part))
                child = node.children[part] = Node(children={})
            if child.inode is not None and child.inode.target is not None:
                hops += 1
                if hops > MAX_HOPS:
                    return None
                if child.inode.target.startswith("/"):
                    way.clear()
                rest += _parts(child.inode.target)[::-1]
            else:
                way.append((part, child))
        return (way[-1][1] if way else self.root), [part for part, _ in way]

    def places(self) -> dict[tuple[int, int], list[str]]:
        """The paths of every member that has survived."""
        found: dict[tuple[int, int], list[str]] = {}
        pending = [(".", self.root)]
        while pending:
            path, node = pending.pop()
            self._hold(len(path))
            if node.inode is not None:
                found.setdefault((node.inode.layer, node.inode.member), []).append(path)
                self.survivors.add(node.inode)
            for name, child in (node.children or {}).items():
                pending.append((f"{path}/{name}", child))
        return found


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")]


def _refused(number: int, member: tarfile.TarInfo | Member, why: str) -> Refused:
    return Refused(f"member {member.name[:200]!r} of layer {number + 1}: {why}")
