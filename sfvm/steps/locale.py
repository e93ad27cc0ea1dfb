"""``locale``: the language of programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, StepError
from sfvm.guest import Command, Guest
from sfvm.steps._common import word
from sfvm.verbs import JSON

BUILT_IN = ("C", "POSIX", "C.UTF-8", "C.utf8")


@dataclass(frozen=True)
class Locale:
    """Set the system's locale (locale.conf(5)) and generate it where that is needed.

    Example::

        <locale name="en_GB.UTF-8"/>
    """

    element: ClassVar[str] = "locale"
    version: ClassVar[int] = 2
    schema: ClassVar[str] = '<element name="locale"><attribute name="name"><ref name="string"/></attribute></element>'

    name: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(word(element, "name", r"[A-Za-z_]+(\.[A-Za-z0-9-]+)?(@[a-z]+)?", "en_GB.UTF-8"), element.place)

    def title(self) -> str:
        return f"locale {self.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"name": self.name}

    def run(self, guest: Guest) -> None:
        if self.name not in BUILT_IN:
            if not guest.exists("/usr/bin/locale") and not guest.exists("/usr/bin/localedef"):
                raise StepError(
                    "the guest cannot make locales", why="there is no localedef", hint="install locales first"
                )
            guest.run(Command(self._script(), network=False))
        guest.write("/etc/locale.conf", f"LANG={self.name}\n".encode())
        if guest.exists("/etc/debian_version"):
            guest.write("/etc/default/locale", f"LANG={self.name}\n".encode())

    def _script(self) -> str:
        """Make the locale; Debian's locales package makes those of /etc/locale.gen again when it is upgraded."""
        whole, at, modifier = self.name.partition("@")
        language, _, charset = whole.partition(".")
        charset = charset or "ISO-8859-1"
        entry = f"{self.name} {charset}"
        return (
            # It warns of a locale that is not there, and is content with one of a package.
            f'[ -z "$(LC_ALL={self.name} locale charmap 2>&1 >/dev/null)" ] || '
            f"localedef -i {language}{at}{modifier} -f {charset} {self.name}\n"
            f"if [ -f /etc/locale.gen ] && ! grep -qxF '{entry}' /etc/locale.gen; then\n"
            f"    echo '{entry}' >>/etc/locale.gen\n"
            "fi\n"
        )
