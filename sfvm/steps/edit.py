"""``edit``: changes in a text file of the guest."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError, StepError
from sfvm.guest import Command, Guest
from sfvm.steps._common import guest_path
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
        result, count = re.subn(self.values["match"], self.values["with"], text, flags=re.MULTILINE)
        if not count and self.values.get("required", "yes") == "yes":
            raise StepError(
                f"nothing matches {self.values['match']!r}",
                place=self.place,
                hint='correct the expression, or say required="no"',
            )
        return result

    def _line(self, text: str) -> str:
        wanted, lines = self.values["text"], text.splitlines()
        if self.values.get("state", "present") == "absent":
            return _join(line for line in lines if line != wanted)
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
        between = re.escape(separator.strip()) or r"\s"
        pattern = re.compile(rf"^\s*#?\s*{re.escape(name)}\s*{between}.*$")
        lines, done = [], False
        for old in text.splitlines():
            if pattern.match(old) and not done:
                lines.append(line)
                done = True
            elif not (pattern.match(old) and not old.lstrip().startswith("#")):
                lines.append(old)
        return _join(lines if done else [*lines, line])


@dataclass(frozen=True)
class Edit:
    """Change a text file; owner and mode stay. The file must exist.

    Example::

        <edit path="/etc/ssh/sshd_config">
          <set name="PermitRootLogin" value="no" separator=" "/>
          <replace match="^#?Port .*" with="Port 2222"/>
          <line text="UseDNS no"/>
        </edit>

    ``replace``: every match of a regular expression (Python's, ``^`` and ``$`` match at lines) is replaced.
    ``line``: a line is there (added at the end, or ``after`` the first line that matches), or ``state="absent"``.
    ``set``: ``name`` has ``value``; a commented-out line is used, later ones for the same name go.
    """

    element: ClassVar[str] = "edit"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="edit">
      <attribute name="path"><ref name="path"/></attribute>
      <oneOrMore><choice>
        <element name="replace">
          <attribute name="match"><ref name="string"/></attribute>
          <attribute name="with"><ref name="string"/></attribute>
          <optional><attribute name="required"><ref name="yes-no"/></attribute></optional>
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
                except re.error as error:
                    raise SpecError(
                        f"{name} is no regular expression", place=child.place_of(name), why=str(error)
                    ) from None
            changes.append(Change(child.tag, dict(child.attributes), child.place))
        return cls(guest_path(element), tuple(changes), element.place)

    def title(self) -> str:
        return f"edit {self.path}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"path": self.path, "changes": [[change.kind, dict(change.values)] for change in self.changes]}

    def run(self, guest: Guest) -> None:
        if not guest.exists(self.path):
            raise StepError(f"the guest has no {self.path}", place=self.place, hint="write it with <file>")
        text = guest.read(self.path).decode("utf-8", errors="surrogateescape")
        for change in self.changes:
            text = change.apply(text)
        stat = f"stat -L -c '%a %u:%g' {shlex.quote('/sysroot' + self.path)}"
        mode, owner = guest.capture(Command(stat, place="appliance", network=False)).split()
        guest.write(self.path, text.encode("utf-8", errors="surrogateescape"), mode=int(mode, 8), owner=owner)


def _join(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
