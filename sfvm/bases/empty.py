"""``empty``: nothing at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.verbs import JSON, Attached, Host


@dataclass(frozen=True)
class Empty:
    """An empty filesystem: steps copy into it what there shall be.

    Example::

        <base><empty/></base>
    """

    element: ClassVar[str] = "empty"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = '<element name="empty"><empty/></element>'

    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.place)

    def title(self) -> str:
        return "empty"

    def inputs(self) -> Mapping[str, JSON]:
        return {}

    def facts(self) -> Mapping[str, str]:
        return {}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        """Leave it empty."""
