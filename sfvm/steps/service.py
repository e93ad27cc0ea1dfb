"""``service``: what starts with the machine."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError, StepError
from sfvm.guest import Command, Guest
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Service:
    """Enable, disable or mask services (systemd units, or OpenRC services).

    Example::

        <service enable="nginx" mask="apt-daily.timer"/>
    """

    element: ClassVar[str] = "service"
    version: ClassVar[int] = 2
    schema: ClassVar[str] = """
    <element name="service">
      <optional><attribute name="enable"><ref name="words"/></attribute></optional>
      <optional><attribute name="disable"><ref name="words"/></attribute></optional>
      <optional><attribute name="mask"><ref name="words"/></attribute></optional>
    </element>"""

    enable: tuple[str, ...]
    disable: tuple[str, ...]
    mask: tuple[str, ...]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        service = cls(element.words("enable"), element.words("disable"), element.words("mask"), element.place)
        names = (*service.enable, *service.disable, *service.mask)
        if not names:
            raise SpecError("service does nothing", place=element.place, hint='say enable="…", disable or mask')
        for name in names:
            if name.startswith("-"):
                raise SpecError(f"{name!r} is no service", place=element.place, hint="for example nginx.service")
            if names.count(name) > 1:
                raise SpecError(
                    f"service {name} cannot be two of enabled, disabled and masked, or one of them twice",
                    place=element.place,
                    hint="name it once",
                )
        return service

    def title(self) -> str:
        verbs = (("enable", self.enable), ("disable", self.disable), ("mask", self.mask))
        return "service " + ", ".join(f"{verb} {' '.join(names)}" for verb, names in verbs if names)

    def inputs(self) -> Mapping[str, JSON]:
        return {"enable": list(self.enable), "disable": list(self.disable), "mask": list(self.mask)}

    def run(self, guest: Guest) -> None:
        if guest.exists("/usr/bin/systemctl") or guest.exists("/bin/systemctl"):
            tool = {"enable": "systemctl enable {}", "disable": "systemctl disable {}", "mask": "systemctl mask {}"}
        elif guest.exists("/sbin/rc-update"):
            # "rc-update delete" is that for one runlevel, and an error where the service is in another.
            away = "rm -f /etc/runlevels/*/{}"
            tool = {"enable": "rc-update add {} default", "disable": away, "mask": away}
        else:
            raise StepError(
                "the guest has no service manager", why="neither systemctl nor rc-update is there",
                hint="install systemd or openrc first",
            )  # fmt: skip
        lines = [
            tool[verb].format(shlex.quote(name))
            for verb, names in (("disable", self.disable), ("mask", self.mask), ("enable", self.enable))
            for name in names
        ]
        guest.run(Command("\n".join(lines) + "\n", network=False))
