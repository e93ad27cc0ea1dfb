"""Package managers of guests, found by looking: the one place that knows their commands and their configuration."""

from __future__ import annotations

from sfvm.errors import StepError
from sfvm.guest import Guest
from sfvm.managers import apk, apt, pacman, rpm
from sfvm.managers.manager import Addition, Change, Manager, Source

__all__ = ["MANAGERS", "Addition", "Change", "Manager", "Source", "find"]

MANAGERS = (apt.MANAGER, rpm.DNF, rpm.ZYPPER, apk.MANAGER, pacman.MANAGER)


def find(guest: Guest) -> Manager:
    """The guest's package manager.

    :raises StepError: it has none that we know
    """
    for manager in MANAGERS:
        if guest.exists(manager.program):
            return manager
    raise StepError(
        "the guest has no package manager",
        why="none of " + ", ".join(manager.program for manager in MANAGERS) + " is there",
        hint="begin with a base that has one, or copy what you need",
    )
