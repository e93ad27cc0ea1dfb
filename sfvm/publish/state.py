"""How far a bundle's way to Amazon is, in a file beside it: whatever happens, the next attempt goes on there."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sfvm import safejson
from sfvm.errors import PublishError
from sfvm.repository.files import Lock, holder, write_atomically, writing


@dataclass(frozen=True)
class State:
    """*digest* is the SHA-256 of the disk, *token* makes the snapshot one, however often it is asked for. Of the
    *snapshot* all blocks *below* this index are there; it is *complete* when it takes no more. *request* is the SHA-256
    of what Amazon was last asked to register, *image* the AMI that this became, once the answer was heard."""

    digest: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    snapshot: str = ""
    below: int = 0
    complete: bool = False
    image: str = ""
    request: str = ""

    def save(self, path: Path) -> None:
        """:raises RepositoryError: it cannot be written"""
        with writing("the state of the upload", path.parent):
            write_atomically(path, json.dumps(asdict(self), indent=1).encode() + b"\n", path.parent)


def load(path: Path, digest: str) -> State:
    """The state in *path*, if it is of the disk with this *digest*; else, or when it is not to be understood, a new
    one."""
    try:
        found = State(**safejson.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return State(digest)
    return found if found.digest == digest else State(digest)


def beside(directory: Path, where: str) -> Path:
    """Where the state of publishing the bundle in *directory* to the region *where* is kept."""
    directory = directory.absolute()
    return directory.with_name(f"{directory.name}.{where}.json")


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else publishes this bundle there at the same time.

    :raises PublishError: somebody does
    """
    guard = path.with_suffix(".lock")
    with writing("the state of the upload", path.parent):
        lock = Lock.take(guard)
    if lock is None:
        raise PublishError("this bundle is being published already", why=f"by {holder(guard)}", hint="wait for it")
    lock.describe()
    try:
        yield
    finally:
        lock.release(remove=True)
