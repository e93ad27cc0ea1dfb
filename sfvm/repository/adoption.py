"""Going on with unfinished work: one's own, or that of a build that began alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfvm.repository.files import Lock, listing
from sfvm.repository.manifest import KEY
from sfvm.repository.work import Work, common

if TYPE_CHECKING:
    from sfvm.repository.store import Repository


def adopt(repository: Repository, base_key: str, step_keys: Sequence[str], into: Work) -> int:
    """See :meth:`Repository.adopt`."""
    own = usable(repository, into, base_key, step_keys)
    offers: list[tuple[int, str]] = []
    for key in listing(repository.root / "work"):
        # The work of a node that is built may still be in use: it backs the drive of its child's build.
        if key != into.key and KEY.fullmatch(key) and not repository.built(key):
            offers.append((usable(repository, repository.work(key, ""), base_key, step_keys), key))
    for count, key in sorted(offers, reverse=True):
        if count > own and _take(repository, key, base_key, step_keys, into, own):
            own = len(into.checkpoints)
            break
    if own == 0 or own < len(into.checkpoints):
        into.reset()
        return 0
    into.tidy()
    if into.backing_key is not None:
        into.rebacked(repository.backing(into.backing_key))
    into.mend()
    return len(into.done)


def usable(repository: Repository, work: Work, base_key: str, step_keys: Sequence[str]) -> int:
    """How many checkpoints of *work* a build with these keys can go on from: none when the parent below them was
    built anew since, for their bytes do not fit any more."""
    if work.base_key != base_key:
        return 0
    parent = work.backing_key
    if parent is not None and (
        not repository.built(parent) or repository.manifest(parent).origin != work.backing_origin
    ):
        return 0
    return common(work.records, step_keys)


def _take(repository: Repository, key: str, base_key: str, step_keys: Sequence[str], into: Work, own: int) -> bool:
    """Move the checkpoints of the build of *key*, unless it is running or has got no further meanwhile."""
    lock = Lock.take(repository.root / "lock" / key)
    if lock is None:
        return False
    try:
        other = repository.work(key, "")
        count = usable(repository, other, base_key, step_keys)
        if repository.built(key) or count <= own:
            return False
        into.tidy()
        into.take(other, count)
        return True
    finally:
        lock.release(remove=True)
