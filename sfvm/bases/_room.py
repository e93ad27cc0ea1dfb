"""What fills a filesystem may be too large for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sfvm.errors import Place, StepError
from sfvm.guest import CommandFailed


@contextmanager
def filling(name: str, place: Place) -> Iterator[None]:
    """A context that puts what *name* holds into the guest.

    :raises StepError: there is no room for it
    """
    try:
        yield
    except CommandFailed as error:
        if any("No space left on device" in line for line in error.output):
            raise StepError(
                f"{name} does not fit into the spec's disk",
                place=place,
                why="no space is left on it",
                hint='make it larger: <disk size="…"/>',
            ) from error
        raise
