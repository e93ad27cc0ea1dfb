"""``keyboard``: the keys of the console."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.steps._common import word
from sfvm.verbs import JSON

NAMES = r"[A-Za-z0-9_,-]+"
"""Of layouts, variants and models; the shell reads /etc/default/keyboard."""


@dataclass(frozen=True)
class Keyboard:
    """Set the keyboard's layout: vconsole.conf(5), and Debian's keyboard(5).

    Example::

        <keyboard layout="de" variant="nodeadkeys"/>
    """

    element: ClassVar[str] = "keyboard"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="keyboard">
      <attribute name="layout"><ref name="word"/></attribute>
      <optional><attribute name="variant"><ref name="word"/></attribute></optional>
      <optional><attribute name="model"><ref name="word"/></attribute></optional>
    </element>"""

    layout: str
    variant: str
    model: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        variant = word(element, "variant", NAMES, "nodeadkeys", default="")
        model = word(element, "model", NAMES, "pc105", default="pc105")
        return cls(word(element, "layout", NAMES, "de"), variant, model, element.place)

    def title(self) -> str:
        return f"keyboard {self.layout} {self.variant}".strip()

    def inputs(self) -> Mapping[str, JSON]:
        return {"layout": self.layout, "variant": self.variant, "model": self.model}

    def run(self, guest: Guest) -> None:
        keymap = f"{self.layout}-{self.variant}" if self.variant else self.layout
        guest.write("/etc/vconsole.conf", f"KEYMAP={keymap}\n".encode())
        if guest.exists("/etc/debian_version"):
            text = f'XKBMODEL="{self.model}"\nXKBLAYOUT="{self.layout}"\nXKBVARIANT="{self.variant}"\nXKBOPTIONS=""\n'
            guest.write("/etc/default/keyboard", (text + 'BACKSPACE="guess"\n').encode())
