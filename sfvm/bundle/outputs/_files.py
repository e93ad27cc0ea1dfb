"""What verbs share that work on artifacts made before them."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from sfvm.bundle.stage import Stage
from sfvm.errors import BundleError, Place


def matching(stage: Stage, patterns: Sequence[str], place: Place) -> tuple[str, ...]:
    """The artifacts so far that *patterns* of file names match: in the order of the patterns, each once.

    :raises BundleError: a pattern that no artifact matches
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [name for name in stage.made if fnmatch.fnmatchcase(name, pattern)]
        if not names:
            raise BundleError(
                f"no artifact is called {pattern}",
                place=place,
                why="there is " + (", ".join(stage.made) or "none yet"),
                hint="this verb comes after what it works on",
            )
        found.update(dict.fromkeys(names))
    return tuple(found)
