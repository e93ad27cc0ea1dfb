"""``edit``: changes in a text file of the guest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import NO_EXPRESSION, Element
from sfvm.errors import Place, SpecError, StepError
from sfvm.guest import Guest
from sfvm.steps._common import guest_path, status
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Change:
    """One change: *kind* is ``replace``, ``line`` or ``set``, the rest its attributes."""

    kind: str
    values: Mapping[str, str]
    place: Place

    def apply(self, text: str) -> str:
        """The text after the change.

        :raises StepError: nothing matches
        """
        return {"replace": self._replace, "line": self._line, "set": self._set}[self.kind](text)

    def _replace(self, text: str) -> str:
        most = int(self.values.get("count", "0"))  # 0: all, as re.subn has it
        result, count = re.subn(self.values["match"], self.values["with"], text, count=most, flags=re.MULTILINE)
        if not count and self.values.get("required", "yes") == "yes":
            raise StepError(
                f"nothing matches {self.values['match']!r}",
                place=self.place,
                hint='correct the expression, or say required="no"',
            )
        return result

    def _line(self, text: str) -> str:
        wanted, lines = self.values["text"], _lines(text)
        if self.values.get("state", "present") == "absent":
            return _join([line for line in lines if line != wanted])
        if wanted in lines:
            return text
        after = self.values.get("after")
        if after is not None:
            for number, line in enumerate(lines):
                if re.search(after, line):
                    return _join([*lines[: number + 1], wanted, *lines[number + 1 :]])
        return _join([*lines, wanted])

    def _set(self, text: str) -> str:
        name, separator = self.values["name"], self.values.get("separator", "=")
        line = f"{name}{separator}{self.values['value']}"
        sign = separator.strip()
        rest = rf"{re.escape(name)}\s*{re.escape(sign)}" if sign else rf"{re.escape(name)}(\s|$)"
        lines = _lines(text)
        # Prose such as "# Port is …" looks like a setting, too: a comment without a blank is the better one.
        for pattern in (rf"\s*{rest}", rf"\s*#{rest}", rf"\s*#\s*{rest}"):
            if found := [number for number, old in enumerate(lines) if re.match(pattern, old)]:
                break
        else:
            return _join([*lines, line])
        lines[found[0]] = line
        again = {number for number in found[1:] if not lines[number].lstrip().startswith("#")}
        return _join([old for number, old in enumerate(lines) if number not in again])


@dataclass(frozen=True)
class Edit:
    """Change a text file; owner and mode stay. The file must exist; a symlink to it stays one.

    Example::

        <edit path="/etc/ssh/sshd_config">
          <set name="PermitRootLogin" value="no" separator=" "/>
          <replace match="^#?Port .*" with="Port 2222"/>
          <line text="UseDNS no"/>
        </edit>

    ``replace``: every match of a regular expression (Python's, ``^`` and ``$`` match at lines) is replaced, or the
    first ``count``; that none matches is an error unless ``required="no"``.
    ``line``: a line is there (added at the end, or ``after`` the first line that matches), or ``state="absent"``.
    ``set``: ``name`` has ``value``: in place of the line that sets it (further ones go), else of the first
    commented-out one, else at the end.
    """

    element: ClassVar[str] = "edit"
    version: ClassVar[int] = 2
    schema: ClassVar[str] = """
    <element name="edit">
      <attribute name="path"><ref name="path"/></attribute>
      <oneOrMore><choice>
        <element name="replace">
          <attribute name="match"><ref name="string"/></attribute>
          <attribute name="with"><ref name="string"/></attribute>
          <optional><attribute name="required"><ref name="yes-no"/></attribute></optional>
          <optional><attribute name="count"><ref name="integer"/></attribute></optional>
        </element>
        <element name="line">
          <attribute name="text"><ref name="string"/></attribute>
          <optional>
            <attribute name="state"><choice><value>present</value><value>absent</value></choice></attribute>
          </optional>
          <optional><attribute name="after"><ref name="string"/></attribute></optional>
        </element>
        <element name="set">
          <attribute name="name"><ref name="string"/></attribute>
          <attribute name="value"><ref name="string"/></attribute>
          <optional><attribute name="separator"><ref name="string"/></attribute></optional>
        </element>
      </choice></oneOrMore>
    </element>"""

    path: str
    changes: tuple[Change, ...]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        changes = []
        for child in element.children:
            for name in ("match", "after"):
                try:
                    re.compile(child.get(name) or "")
                except NO_EXPRESSION as error:
                    raise SpecError(
                        f"{name} is no regular expression",
                        place=child.place_of(name),
                        why=str(error),
                        hint="put a backslash before what is not meant to be special",
                    ) from None
            if child.tag == "replace":
                _check_replacement(child)
            changes.append(Change(child.tag, dict(child.attributes), child.place))
        return cls(guest_path(element), tuple(changes), element.place)

    def title(self) -> str:
        return f"edit {self.path}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"path": self.path, "changes": [[change.kind, dict(change.values)] for change in self.changes]}

    def run(self, guest: Guest) -> None:
        if not guest.exists(self.path):
            raise StepError(f"the guest has no {self.path}", place=self.place, hint="write it with <file>")
        path, mode, owner = status(guest, self.path)
        text = guest.read(path).decode("utf-8", errors="surrogateescape")
        for change in self.changes:
            text = change.apply(text)
        guest.write(path, text.encode("utf-8", errors="surrogateescape"), mode=mode, owner=owner)


def _check_replacement(element: Element) -> None:
    """:raises SpecError: ``with`` names a group that ``match`` does not have, or ``count`` is none"""
    try:
        re.sub(element.attributes["match"], element.attributes["with"], "")  # reads its second argument in any case
    except (*NO_EXPRESSION, IndexError) as error:
        raise SpecError(
            f"with={element.attributes['with']!r} does not fit match",
            place=element.place_of("with"),
            why=str(error),
            hint=r"\1 is the first group of match, a backslash is \\",
        ) from None
    if int(element.get("count") or 1) < 1:
        raise SpecError("count must be 1 or more", place=element.place_of("count"), hint="leave it out to replace all")


def _lines(text: str) -> list[str]:
    """The lines of *text* without their line feeds, and nothing else taken for the end of a line."""
    return text.removesuffix("\n").split("\n") if text else []


def _join(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
