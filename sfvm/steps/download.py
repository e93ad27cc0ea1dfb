"""``download``: a file from the network, known by its digest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place
from sfvm.guest import Guest
from sfvm.sources import WEB, require_url
from sfvm.steps._common import digest, guest_path, mode
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Download:
    """Fetch a file over http(s) and put it into the guest. Its ``sha256`` decides: only that content is accepted, and
    the URL does not count for the key. The host fetches it, once: it stays in the download cache.

    Example::

        <download url="https://example.org/tool" sha256="…" to="/usr/local/bin/tool" mode="0755"/>
    """

    element: ClassVar[str] = "download"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="download">
      <attribute name="url"><ref name="string"/></attribute>
      <attribute name="sha256"><ref name="sha256"/></attribute>
      <attribute name="to"><ref name="path"/></attribute>
      <optional><attribute name="owner"><ref name="owner"/></attribute></optional>
      <optional><attribute name="mode"><ref name="mode"/></attribute></optional>
    </element>"""

    url: str
    sha256: str
    to: str
    mode: int
    owner: str | None
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        url = element.attributes["url"]
        require_url(url, element.place_of("url"), "url", WEB)
        target = guest_path(element, "to")
        bits = mode(element, 0o644)
        return cls(url, digest(element) or "", target, bits or 0, element.get("owner"), element.place)

    def title(self) -> str:
        return f"download {self.url}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"sha256": self.sha256, "to": self.to, "mode": f"{self.mode:04o}", "owner": self.owner}

    def run(self, guest: Guest) -> None:
        guest.upload(guest.fetch(self.url, self.sha256), self.to, mode=self.mode, owner=self.owner)
