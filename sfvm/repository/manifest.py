"""What is known of a built node: its manifest."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from sfvm import safejson
from sfvm.config import LAST_SECOND
from sfvm.downloads.fetched import Fetched

VERSION = 1
KEY = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,199}")
"""What specs may call a node, too (``node-name`` in :mod:`sfvm.spec.patterns`, which takes a while to import)."""


@dataclass(frozen=True)
class StepRecord:
    """One step that was done, in *seconds*; *key* covers everything up to and including it."""

    title: str
    key: str
    seconds: float


@dataclass(frozen=True)
class Manifest:
    """A sealed node.

    *digest* is the SHA-256 of the overlay file, *size* its bytes, *disk* its virtual size in bytes; *created* is
    seconds since the epoch, *seconds* how long the build took. *origin* tells one build of a key from another, whose
    bytes differ: drawn when its steps were done (or else the digest of the overlay when it was sealed first; an export
    may rewrite its header). An overlay fits only the build of its parent that it was made on, *parent_origin*. Both are
    set when it is published. *fetched* is what was downloaded for it, by the host and by its guest.
    """

    key: str
    name: str
    parent: str | None
    parent_name: str | None
    inputs: Mapping[str, Any]
    spec: str
    steps: tuple[StepRecord, ...]
    digest: str
    size: int
    disk: int
    filesystem: str
    facts: Mapping[str, str]
    packages: tuple[tuple[str, str, str], ...]
    created: float
    seconds: float
    provenance: Mapping[str, Any]
    depth: int
    origin: str = ""
    parent_origin: str | None = None
    fetched: tuple[Fetched, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The manifest as one JSON object."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["inputs"] = dict(self.inputs)
        fields["facts"] = dict(self.facts)
        fields["provenance"] = dict(self.provenance)
        fields["steps"] = [dataclasses.asdict(step) for step in self.steps]
        fields["packages"] = [list(package) for package in self.packages]
        fields["fetched"] = [fetched.to_json() for fetched in self.fetched]
        return {"version": VERSION, **fields}

    @classmethod
    def from_json(cls, value: object) -> Manifest:
        """The manifest in a JSON object.

        :raises ValueError: it is none; the message says why
        """
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        if value.get("version") != VERSION:
            raise ValueError(f"version {value.get('version')!r}, not {VERSION}")
        value = {"fetched": [], **value}  # sfvm 0.1 wrote none
        found: dict[str, Any] = {}
        for name, kinds in _KINDS.items():
            if name not in value:
                raise ValueError(f"no {name!r}")
            found[name] = value[name]
            if not isinstance(value[name], kinds) or isinstance(value[name], bool):
                raise ValueError(f"{name!r} is of the wrong type")
        for name in ("key", "digest", "origin"):
            if not KEY.fullmatch(found[name]):
                raise ValueError(f"{name!r} is no SHA-256")
        for name in ("parent", "parent_origin"):
            if found[name] is not None and not KEY.fullmatch(found[name]):
                raise ValueError(f"{name!r} is no SHA-256")
        if not NAME.fullmatch(found["name"]):
            raise ValueError(f"{found['name']!r} is no name")
        if min(found["size"], found["disk"], found["depth"]) < 0:
            raise ValueError("a negative size or depth")
        if not (_is_time(found["created"]) and _is_time(found["seconds"])):
            raise ValueError("a time that is none")
        if not all(isinstance(fact, str) for fact in found["facts"].values()):
            raise ValueError("a fact that is no text")
        if len({found["parent"] is None, found["parent_origin"] is None, found["depth"] == 0}) != 1:
            raise ValueError("parent, parent_origin and depth do not fit together")
        try:
            found["steps"] = tuple(
                StepRecord(str(step["title"]), str(step["key"]), float(step["seconds"])) for step in found["steps"]
            )
            if not all(_is_time(step.seconds) for step in found["steps"]):
                raise ValueError("a time that is none")
            found["packages"] = tuple((str(name), str(version), str(arch)) for name, version, arch in found["packages"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"malformed steps or packages ({error!r})") from None
        found["fetched"] = tuple(Fetched.from_json(fetched) for fetched in found["fetched"])
        return cls(**found)

    @classmethod
    def parse(cls, content: bytes) -> Manifest:
        """The manifest in a file's content.

        :raises ValueError: it is none, or truncated
        """
        return cls.from_json(safejson.loads(content))

    def dump(self) -> bytes:
        """The content of its file."""
        return json.dumps(self.to_json(), ensure_ascii=False).encode() + b"\n"

    @property
    def summary(self) -> str:
        """One line: the name, the beginning of the key, and the parent's name."""
        return f"{self.name} {self.key[:12]}" + (f" on {self.parent_name}" if self.parent_name else "")


def _is_time(seconds: float) -> bool:
    return 0 <= seconds <= LAST_SECOND  # which NaN is not


def _kinds(hint: Any) -> tuple[type, ...]:
    """What ``json.loads`` gives for a field of type *hint*."""
    if hint is float:
        return (int, float)
    arguments = getattr(hint, "__args__", None)
    if arguments and type(None) in arguments:
        return tuple(kind for argument in arguments for kind in _kinds(argument))
    origin = getattr(hint, "__origin__", hint)
    return (list,) if origin is tuple else (dict,) if origin is not hint else (hint,)


_KINDS = {name: _kinds(hint) for name, hint in get_type_hints(Manifest).items()}
