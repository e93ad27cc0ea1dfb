"""What a node is made of: read in an appliance, and told as values."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sfvm.config import Settings
from sfvm.contents import capabilities
from sfvm.contents.entry import Entry, Paths, shown
from sfvm.contents.trees import reading
from sfvm.errors import SfvmError
from sfvm.events import Listener
from sfvm.repository import Manifest, Repository

TEXTS = ("etc/os-release", "etc/passwd", "etc/shadow", "etc/group")
READ = 4 << 20
"""So many bytes such a file may have."""
NO_LOGIN = frozenset(("nologin", "false", "true", "sync", "halt", "shutdown"))
"""Shells (their last component) that let nobody in."""
SPACE = " \t\v\f\r"
NUMBER = re.compile(rf"[{SPACE}]*(?:\+?0*([0-9]{{1,10}})|-0+)")
"""A number of a user as strtoul(3) reads it; larger ones, and those below zero, are nobody's."""
MAX_HOPS = 40
"""Symlinks on one path, as Linux has it."""
DEPTH = 2
"""So many components has a directory whose size is told."""
SETUID, SETGID, STICKY, OTHERS_WRITE = 0o4000, 0o2000, 0o1000, 0o0002


@dataclass(frozen=True)
class User:
    """Somebody with a shell. *password* is ``set``, ``locked``, or ``none`` (none is asked for); *keys*: whether there
    are authorized SSH keys."""

    name: str
    number: int
    shell: str
    home: str
    password: str
    keys: bool
    groups: tuple[str, ...]

    @property
    def login(self) -> bool:
        """Whether there is a way in."""
        return self.password != "locked" or self.keys

    def to_json(self) -> dict[str, Any]:
        told = {"name": self.name, "uid": self.number, "shell": self.shell, "home": self.home}
        return {**told, "password": self.password, "keys": self.keys, "login": self.login, "groups": list(self.groups)}


@dataclass(frozen=True)
class Service:
    """A unit or service that is started *by* a target or runlevel, or under another name (an alias)."""

    name: str
    by: str


@dataclass(frozen=True)
class Kernel:
    """A kernel's *version*, and its *image* ("" where only its modules are there)."""

    version: str
    image: str


@dataclass(frozen=True)
class Inspection:
    """See the fields of the JSON. *privileged* are set-uid and set-gid files, and those with capabilities, with these;
    *writable* is what anybody may change (files, and directories without the sticky bit); *directories* have bytes on
    the disk by path, hard links counted once."""

    manifest: Manifest
    release: Mapping[str, str]
    users: tuple[User, ...]
    enabled: tuple[Service, ...]
    masked: tuple[str, ...]
    target: str
    privileged: tuple[tuple[bytes, Entry, tuple[str, ...]], ...]
    writable: tuple[tuple[bytes, Entry], ...]
    kernels: tuple[Kernel, ...]
    directories: Mapping[str, int]
    files: int

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.manifest.name,
            "key": self.manifest.key,
            "distribution": {
                "id": self.release.get("ID", ""),
                "version": self.release.get("VERSION_ID", ""),
                "name": self.release.get("PRETTY_NAME", ""),
            },
            "kernels": [{"version": one.version, "image": one.image} for one in self.kernels],
            "packages": [{"name": n, "version": v, "architecture": a} for n, v, a in self.manifest.packages],
            "users": [user.to_json() for user in self.users],
            "services": {
                "enabled": [{"name": one.name, "by": one.by} for one in self.enabled],
                "masked": list(self.masked),
                "target": self.target,
            },
            "privileged": [
                {"path": shown(path), **entry.to_json(), "capabilities": list(can)}
                for path, entry, can in self.privileged
            ],
            "writable": [{"path": shown(path), **entry.to_json()} for path, entry in self.writable],
            "files": self.files,
            "size": self.directories["/"],
            "directories": dict(self.directories),
        }


def inspect(manifest: Manifest, repository: Repository, settings: Settings, listener: Listener) -> Inspection:
    """Look into the node of *manifest*.

    :raises SfvmError: it cannot be read, or the appliance cannot be started
    """
    with reading([manifest], repository, settings, listener) as trees:
        (entries,) = trees.entries()
        places = {name: place for name in TEXTS if (place := _text(manifest.name, entries, name)) is not None}
        (contents,) = trees.contents(list(dict.fromkeys(places.values())), [entries])
    texts = {name: contents[place].decode("utf-8", errors="replace") for name, place in places.items()}
    return of(manifest, entries, texts)


def _text(node: str, entries: Paths, name: str) -> bytes | None:
    place = resolve(entries, name.encode())
    if place is None or not entries[place].regular:
        return None
    if entries[place].size > READ:
        raise SfvmError(
            f"/{name} is too large to be looked at",
            node=node,
            why=f"it has {entries[place].size} bytes; {READ >> 20} MiB are more than such a file needs",
            hint=f"sfvm run {node} -- head -c 4096 /{name}",
        )
    return place


def of(manifest: Manifest, entries: Paths, texts: Mapping[str, str]) -> Inspection:
    """What *entries* and the contents of :data:`TEXTS` tell. Pure."""
    return Inspection(
        manifest,
        release(texts.get("etc/os-release", "")),
        tuple(users(entries, texts)),
        tuple(sorted(enabled(entries), key=lambda service: (service.name, service.by))),
        tuple(name for name, target in _units(entries) if target == MASKED),
        next((_base(target) for name, target in _units(entries) if name == TARGET), ""),
        tuple(privileged(entries)),
        tuple((path, entry) for path, entry in sorted(entries.items()) if _open(entry)),
        tuple(kernels(entries)),
        directories(entries),
        len(entries),
    )


def resolve(entries: Paths, path: bytes) -> bytes | None:
    """Where *path* is, all symlinks followed as the guest would follow them; None when nothing is there."""
    here: list[bytes] = []
    rest = path.split(b"/")[::-1]
    hops = 0
    while rest:
        part = rest.pop()
        if part == b"..":
            here = here[:-1]
        elif part not in (b"", b"."):
            entry = entries.get(b"/".join([*here, part]))
            if entry is None or (hops := hops + (entry.kind == "symlink")) > MAX_HOPS:
                return None
            if entry.kind == "symlink":
                here = [] if entry.target.startswith(b"/") else here
                rest += entry.target.split(b"/")[::-1]
            else:
                here.append(part)
    return b"/".join(here) or b"."


def release(text: str) -> dict[str, str]:
    """The fields of an os-release (os-release(5)); lines that are none are left out."""
    found = {}
    for line in text.split("\n"):
        name, equals, value = line.strip().partition("=")
        if equals and re.fullmatch("[A-Z0-9_]+", name):
            try:
                found[name] = "".join(shlex.split(value, comments=False))
            except ValueError:  # a quotation without its end
                found[name] = value
    return found


def users(entries: Paths, texts: Mapping[str, str]) -> Iterator[User]:
    """Those of /etc/passwd with a shell that is there and lets somebody in (passwd(5), shadow(5), group(5)), read as
    glibc does: so that nobody is in there unseen."""
    hidden = {fields[0]: fields[1] for fields in reversed([*_fields(texts.get("etc/shadow", ""), 2, 2)])}
    groups = [(title, gid, members.split(",")) for title, _, gid, members in _fields(texts.get("etc/group", ""), 3, 4)]
    for name, secret, number, group, _, home, shell in _fields(texts.get("etc/passwd", ""), 4, 7):
        shell = shell or "/bin/sh"
        if not (found := NUMBER.fullmatch(number)) or posixpath.basename(shell) in NO_LOGIN:
            continue
        if resolve(entries, os.fsencode(shell)) is None:
            continue
        secret = hidden.get(name, "*") if secret == "x" else secret
        password = "none" if not secret else "locked" if secret[0] in "!*" else "set"
        mine = tuple(title for title, gid, members in groups if gid == group or name in members)
        yield User(name, int(found[1] or 0), shell, home, password, _keys(entries, home), mine)


def _keys(entries: Paths, home: str) -> bool:
    """Whether sshd would find a file of keys at its usual places (sshd_config(5), AuthorizedKeysFile)."""
    places = (resolve(entries, os.fsencode(f"{home}/.ssh/authorized_keys{end}")) for end in ("", "2"))
    return any(place is not None and entries[place].size > 0 for place in places)


def _fields(text: str, least: int, most: int) -> Iterator[list[str]]:
    """The first *most* fields of a database with colons, empty where a line has fewer, but no fewer than *least*."""
    for line in text.split("\n"):  # not splitlines(): a name may well have what that takes for the end of a line
        fields = line.lstrip(SPACE).split(":")
        if len(fields) >= least and not fields[0].startswith("#"):
            yield (fields + [""] * most)[:most]


UNITS, TARGET, MASKED = b"etc/systemd/system/", "default.target", b"/dev/null"


def enabled(entries: Paths) -> Iterator[Service]:
    """What starts with the machine: the links that ``systemctl enable`` makes (systemd.unit(5), ``[Install]``), aliases
    among them, and OpenRC's runlevels (rc-update(8)); nothing that is masked."""
    units = _units(entries)
    masked = {name for name, target in units if target == MASKED}
    for alias, target in units:
        if alias != TARGET and target != MASKED and not _names(_base(target)) & masked:
            yield Service(_base(target), alias)
    for path, entry in entries.items():
        folder, _, last = path.rpartition(b"/")
        name = os.fsdecode(last)
        if folder.startswith(UNITS) and folder.endswith((b".wants", b".requires")) and entry.kind == "symlink":
            if not _names(name) & masked:
                yield Service(name, os.fsdecode(folder.removeprefix(UNITS).rpartition(b".")[0]))
        elif folder.startswith(b"etc/runlevels/") and entry.kind != "directory":
            yield Service(name, os.fsdecode(folder.removeprefix(b"etc/runlevels/")))


def _names(unit: str) -> set[str]:
    """The unit's, and that of the template of which it is an instance."""
    return {unit, re.sub(r"@.*\.", "@.", unit)}


def _units(entries: Paths) -> list[tuple[str, bytes]]:
    """The links that stand for units, sorted, and what they say."""
    names = (path for path in sorted(entries) if path.startswith(UNITS) and path.count(b"/") == UNITS.count(b"/"))
    return [(_base(path), entries[path].target) for path in names if entries[path].kind == "symlink"]


def _base(path: bytes) -> str:
    return os.fsdecode(path.rpartition(b"/")[2])


def privileged(entries: Paths) -> Iterator[tuple[bytes, Entry, tuple[str, ...]]]:
    """Programs that run with more rights than who starts them."""
    for path, entry in sorted(entries.items()):
        can = capabilities.named(entry.xattrs.get(capabilities.XATTR, ""))
        if entry.regular and (entry.mode & (SETUID | SETGID) or can):
            yield path, entry, can


def _open(entry: Entry) -> bool:
    """Whether anybody may change it."""
    if not entry.mode & OTHERS_WRITE:
        return False
    return entry.regular or (entry.kind == "directory" and not entry.mode & STICKY)


def kernels(entries: Paths) -> Iterator[Kernel]:
    """By version; an image is in /boot, or with its modules. One that is named by its flavour (``vmlinuz-virt`` of
    Alpine, ``vmlinuz-linux`` of Arch) is that of the version that it can only be, if there is one."""
    images: dict[str, str] = {}
    modules: dict[str, str] = {}
    for path, entry in entries.items():
        if match := re.fullmatch(rb"boot/vmlinu[xz]-(.+)", path):
            images[os.fsdecode(match[1])] = shown(path)
        elif match := re.fullmatch(rb"(?:usr/)?lib/modules/([^/]+)/vmlinuz", path):
            modules[os.fsdecode(match[1])] = shown(path)
        elif entry.kind == "directory" and (match := re.fullmatch(rb"(?:usr/)?lib/modules/([^/]+)", path)):
            modules.setdefault(os.fsdecode(match[1]), "")
    for flavour in sorted(images.keys() - modules.keys()):
        bare = modules.keys() - images.keys()
        versions = [version for version in bare if version.endswith(f"-{flavour}")] or list(bare)
        if len(versions) == 1:
            images[versions[0]] = images.pop(flavour)
    yield from (Kernel(version, image) for version, image in sorted((modules | images).items()))


def directories(entries: Paths) -> dict[str, int]:
    """Bytes on the disk by directory, what is below included; the largest first. A file with several names counts where
    it is met first."""
    sizes: dict[str, int] = {"/": 0}
    seen: set[int] = set()
    for path, entry in sorted(entries.items()):
        if entry.links > 1:
            if entry.inode in seen:
                continue
            seen.add(entry.inode)
        sizes["/"] += entry.disk
        parts = path.split(b"/")
        parts = parts if entry.kind == "directory" else parts[:-1]
        for depth in range(1, min(len(parts), DEPTH) + 1):
            if parts != [b"."]:
                name = shown(b"/".join(parts[:depth]))
                sizes[name] = sizes.get(name, 0) + entry.disk
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
