"""``remove``: files and directories away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Guest
from sfvm.steps._common import guest_path
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Remove:
    """Remove a file, a link or a whole directory; that it is not there is no error.

    Example::

        <remove path="/usr/share/doc"/>
    """

    element: ClassVar[str] = "remove"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = '<element name="remove"><attribute name="path"><ref name="path"/></attribute></element>'

    path: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        path = guest_path(element)
        if path == "/":
            raise SpecError(
                "the guest's root cannot be removed", place=element.place_of("path"), hint="name what is in it"
            )
        return cls(path, element.place)

    def title(self) -> str:
        return f"remove {self.path}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"path": self.path}

    def run(self, guest: Guest) -> None:
        guest.remove(self.path)
