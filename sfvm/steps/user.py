"""``user``: an account."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.steps import _accounts
from sfvm.steps._common import flags, guest_path, named, word
from sfvm.verbs import JSON


@dataclass(frozen=True)
class User:
    """Create a user, or change one that exists.

    Example::

        <user name="alice" shell="/bin/bash" groups="sudo" ssh-key="ssh-ed25519 AAAA… alice@example"/>

    ``password`` is a hash as crypt(5) knows it, never a password in clear; without one the account has none and cannot
    log in with one. ``groups`` must exist; one that has the user's name is the user's own group. ``ssh-key`` is one
    public key.
    """

    element: ClassVar[str] = "user"
    version: ClassVar[int] = 4
    schema: ClassVar[str] = """
    <element name="user">
      <attribute name="name"><ref name="name"/></attribute>
      <optional><attribute name="uid"><ref name="integer"/></attribute></optional>
      <optional><attribute name="shell"><ref name="path"/></attribute></optional>
      <optional><attribute name="home"><ref name="path"/></attribute></optional>
      <optional><attribute name="groups"><ref name="words"/></attribute></optional>
      <optional><attribute name="comment"><ref name="string"/></attribute></optional>
      <optional><attribute name="system"><ref name="yes-no"/></attribute></optional>
      <optional><attribute name="password"><ref name="string"/></attribute></optional>
      <optional><attribute name="ssh-key"><ref name="string"/></attribute></optional>
    </element>"""

    name: str
    uid: str | None
    shell: str | None
    home: str | None
    groups: tuple[str, ...]
    comment: str | None
    system: bool
    password: str | None
    ssh_key: str | None
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        password = element.get("password")
        if password and not password.startswith(("$", "!", "*")):
            raise SpecError(
                "user password is not a hash",
                place=element.place_of("password"),
                hint="make one with: openssl passwd -6",
            )
        for name in ("shell", "home", "comment", "password"):
            if re.search(r"[:\n]", element.get(name) or ""):
                raise SpecError(
                    f"user {name} has a colon or a new line",
                    place=element.place_of(name),
                    hint="the guest's files of accounts cannot hold it",
                )
        key = element.get("ssh-key")
        if key and not re.fullmatch(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+=*( [^\n]*)?", key.strip()):
            raise SpecError(
                "user ssh-key is not a public key",
                place=element.place_of("ssh-key"),
                hint="give the line of a file such as id_ed25519.pub; a private key belongs in no spec",
            )
        return cls(
            element.attributes["name"],
            word(element, "uid", r"[0-9]+", "1000", default="") or None,
            guest_path(element, "shell") if element.get("shell") else None,
            guest_path(element, "home") if element.get("home") else None,
            element.words("groups"),
            element.get("comment"),
            element.flag("system"),
            password,
            key.strip() if key else None,
            element.place,
        )

    def title(self) -> str:
        return f"user {self.name}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "name": self.name,
            "uid": self.uid,
            "shell": self.shell,
            "home": self.home,
            "groups": list(self.groups),
            "comment": self.comment,
            "system": self.system,
            "password": self.password,
            "ssh-key": self.ssh_key,
        }

    def run(self, guest: Guest) -> None:
        if guest.exists("/usr/sbin/useradd"):
            guest.run(Command(self._shadow(), network=False))
        else:
            _accounts.add_user(
                guest,
                self.name,
                self.uid,
                home=self.home,
                shell=self.shell,
                comment=self.comment,
                system=self.system,
            )
            if self.groups:
                _accounts.join_groups(guest, self.name, self.groups)
            if self.password:
                _accounts.set_password(guest, self.name, self.password)
        if self.ssh_key:
            _accounts.add_key(guest, self.name, self.ssh_key)

    def _shadow(self) -> str:
        name = shlex.quote(self.name)
        options = flags(
            [
                ("--uid", self.uid),
                ("--shell", self.shell),
                ("--comment", self.comment),
                ("--password", self.password),
                ("--groups", ",".join(self.groups)),
            ]
        )
        create = "--system" if self.system else "--create-home"
        home = flags([("--home-dir", self.home)])
        moved = flags([("--home", self.home)])
        return (
            f"if {named('passwd', self.name)}; then\n"
            + (
                f"  usermod {'--append' if self.groups else ''} {options} {moved} {name}\n"
                if options or moved
                else "  :\n"
            )
            # useradd refuses a name that a group has, unless it is to be the user's.
            + f"else\n  group=\n  ! {named('group', self.name)} || group='--gid '{name}\n"
            f"  useradd {create} $group {options} {home} {name}\nfi\n"
        )
