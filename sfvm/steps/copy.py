"""``copy``: files that lie next to the spec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from sfvm.digest import file_digest, tree_digest
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Guest
from sfvm.steps._common import guest_path, mode, octal
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Copy:
    """Copy a file, or the content of a directory, from the spec's directory into the guest.

    Example::

        <copy from="site/" to="/srv/www" owner="www-data:www-data"/>

    ``to`` is the file's or directory's own path; a file goes into the directory ``to`` when that ends with ``/``.
    Modes are kept unless ``mode`` says otherwise (for one file); symlinks in a directory stay symlinks; the owner is
    root unless named.
    """

    element: ClassVar[str] = "copy"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="copy">
      <attribute name="from"><ref name="string"/></attribute>
      <attribute name="to"><ref name="path"/></attribute>
      <optional><attribute name="owner"><ref name="owner"/></attribute></optional>
      <optional><attribute name="mode"><ref name="mode"/></attribute></optional>
    </element>"""

    source: Path
    to: str
    owner: str | None
    mode: int | None
    shown: str
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        source = element.file("from")
        target, bits = guest_path(element, "to"), mode(element)
        if bits is not None and source.is_dir():
            raise SpecError(
                "copy: mode is for one file",
                place=element.place_of("mode"),
                why=f"{element.attributes['from']} is a directory, whose files keep their modes",
                hint="set the modes of the files, or leave mode out",
            )
        if element.attributes["to"].endswith("/") and not source.is_dir():
            target = f"{target.rstrip('/')}/{source.name}"
        return cls(source, target, element.get("owner"), bits, element.attributes["from"], element.place)

    def title(self) -> str:
        return f"copy {self.shown} to {self.to}"

    def inputs(self) -> Mapping[str, JSON]:
        content: JSON
        if self.source.is_dir():
            content = tree_digest(self.source, self.place)
        else:
            bits = self.source.stat().st_mode & 0o7777 if self.mode is None else self.mode
            content = {"sha256": file_digest(self.source, self.place), "mode": octal(bits)}
        return {"to": self.to, "owner": self.owner, "content": content}

    def run(self, guest: Guest) -> None:
        if self.source.is_dir():
            guest.upload_tree(self.source, self.to, owner=self.owner)
        else:
            guest.upload(self.source, self.to, mode=self.mode, owner=self.owner)
