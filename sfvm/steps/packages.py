"""``packages``: install, remove, upgrade with the guest's own package manager."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.managers import Change, find
from sfvm.verbs import JSON

POLICY = "/usr/sbin/policy-rc.d"
REFUSE = b"#!/bin/sh\n# No service starts while packages are installed.\nexit 101\n"
INITRAMFS = "/etc/initramfs-tools/update-initramfs.conf"
LATER = b"# No initramfs is made while packages are installed.\nupdate_initramfs=no\n"
NO_INITRD = {"INITRD": "No", "KERNEL_INSTALL_BYPASS": "1"}
"""The same to the hooks of a new kernel (``/etc/kernel/postinst.d``), which do not look at that file, and to
kernel-install(8)."""


NAME = r"[A-Za-z0-9][A-Za-z0-9.+_-]*"


@dataclass(frozen=True)
class Packages:
    """Install, remove or upgrade packages with the manager that the guest has (apt, dnf, zypper, apk, pacman).

    Example::

        <packages install="nginx=1.22.1-9 curl" hold="nginx" remove="nano"/>
        <packages upgrade="yes"/>
        <packages groups="gnome-desktop"/>

    ``name=version`` installs that version, whatever the manager; pacman can only check that its repository has it.
    ``groups`` are apt's tasks, dnf's groups and environments (by id), zypper's patterns, pacman's groups; apk has none.
    What is held (``hold``, until ``unhold``) stays at its version when others are upgraded: apt-mark, dnf's
    ``excludepkgs``, zypper's locks, pacman's ``IgnorePkg``, a version in apk's world. The order is: unhold, upgrade,
    install, remove, hold.

    Recommended packages (RPM: weak dependencies) come only with ``recommends="yes"``. Signatures are always checked;
    see ``repository`` for keys. No service is started, and nothing that was downloaded stays in the guest. With
    ``initramfs="later"`` no initramfs is made: make it once, in the last step, with ``update-initramfs -c -k all``
    (Debian, Ubuntu) or ``common/dracut.xml`` (Fedora, CentOS and their kin).
    """

    element: ClassVar[str] = "packages"
    version: ClassVar[int] = 4
    schema: ClassVar[str] = """
    <element name="packages">
      <optional><attribute name="install"><ref name="words"/></attribute></optional>
      <optional><attribute name="groups"><ref name="words"/></attribute></optional>
      <optional><attribute name="remove"><ref name="words"/></attribute></optional>
      <optional><attribute name="hold"><ref name="words"/></attribute></optional>
      <optional><attribute name="unhold"><ref name="words"/></attribute></optional>
      <optional><attribute name="upgrade"><ref name="yes-no"/></attribute></optional>
      <optional><attribute name="recommends"><ref name="yes-no"/></attribute></optional>
      <optional>
        <attribute name="initramfs"><choice><value>now</value><value>later</value></choice></attribute>
      </optional>
    </element>"""

    change: Change
    initramfs: bool
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        words = {name: element.words(name) for name in ("install", "groups", "remove", "hold", "unhold")}
        change = Change(**words, upgrade=element.flag("upgrade"), recommends=element.flag("recommends"))
        if not (change.upgrade or any(words.values())):
            raise SpecError("packages does nothing", place=element.place, hint='say install="…", remove or upgrade')
        for name in (*change.install, *change.groups, *change.remove):
            if name.startswith("-"):
                raise SpecError(f"{name!r} is no package name", place=element.place, hint="options have attributes")
        for name in (*change.hold, *change.unhold):
            if not re.fullmatch(NAME, name):
                raise SpecError(
                    f"{name!r} is no package name", place=element.place, hint="held is what is installed: give its name"
                )
        return cls(change, (element.get("initramfs") or "now") == "now", element.place)

    def title(self) -> str:
        change = self.change
        parts = [("install", change.install), ("groups", change.groups), ("remove", change.remove)]
        parts += [("hold", change.hold), ("unhold", change.unhold)]
        words = [f"{verb} {' '.join(names)}" for verb, names in parts if names]
        words += ["upgrade"] if change.upgrade else []
        text = ", ".join(words)
        return f"packages {text if len(text) <= 70 else text[:69] + '…'}"

    def inputs(self) -> Mapping[str, JSON]:
        values = asdict(self.change).items()
        lists = {name: list(value) if isinstance(value, tuple) else value for name, value in values}
        return {**lists, "initramfs": self.initramfs}

    def run(self, guest: Guest) -> None:
        manager = find(guest)
        script = manager.script(self.change)
        files = [(POLICY, REFUSE, 0o755), *([] if self.initramfs else [(INITRAMFS, LATER, 0o644)])]
        if manager.name != "apt":
            files = []  # they are Debian's; other packages start nothing in a chroot
        before = [self._hold(guest, *file) for file in files]
        guest.run(Command(script, env=None if self.initramfs else NO_INITRD, packages=True))
        # A failure needs no restoring: the state before this step is kept, and this one is thrown away.
        for (path, ours, _), content in zip(files, before, strict=True):
            self._release(guest, path, ours, content)

    @staticmethod
    def _hold(guest: Guest, path: str, content: bytes, mode: int) -> bytes | None:
        before = guest.read(path) if guest.exists(path) else None
        guest.write(path, content, mode=mode)
        return before

    @staticmethod
    def _release(guest: Guest, path: str, ours: bytes, before: bytes | None) -> None:
        """Put back what was at *path*, or what a package has brought: dpkg puts that beside ours, or in its place."""
        if not guest.exists(path) or guest.read(path) != ours:
            return
        brought = f"{path}.dpkg-dist"
        if before is None and guest.exists(brought):
            before = guest.read(brought)
            guest.remove(brought)
        if before is not None:
            guest.write(path, before, mode=0o755 if path == POLICY else 0o644)
        else:
            guest.remove(path)
