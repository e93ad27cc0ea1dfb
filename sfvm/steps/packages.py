"""``packages``: install, remove, upgrade with the guest's own package manager."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.steps import _managers
from sfvm.verbs import JSON

POLICY = "/usr/sbin/policy-rc.d"
REFUSE = b"#!/bin/sh\n# No service starts while packages are installed.\nexit 101\n"
INITRAMFS = "/etc/initramfs-tools/update-initramfs.conf"
LATER = b"# No initramfs is made while packages are installed.\nupdate_initramfs=no\n"
NO_INITRD = {"INITRD": "No"}
"""The same to the hooks of a new kernel (``/etc/kernel/postinst.d``), which do not look at that file."""


@dataclass(frozen=True)
class Packages:
    """Install, remove or upgrade packages with the manager that the guest has (apt, dnf, zypper, apk, pacman).

    Example::

        <packages install="nginx curl" remove="nano"/>
        <packages upgrade="yes"/>

    Recommended packages come only with ``recommends="yes"``. No service is started, and nothing that was downloaded
    stays in the guest. With ``initramfs="later"`` no initramfs is made (Debian): make it once, in the last step, with
    ``update-initramfs -c -k all``.
    """

    element: ClassVar[str] = "packages"
    version: ClassVar[int] = 3
    schema: ClassVar[str] = """
    <element name="packages">
      <optional><attribute name="install"><ref name="words"/></attribute></optional>
      <optional><attribute name="remove"><ref name="words"/></attribute></optional>
      <optional><attribute name="upgrade"><ref name="yes-no"/></attribute></optional>
      <optional><attribute name="recommends"><ref name="yes-no"/></attribute></optional>
      <optional>
        <attribute name="initramfs"><choice><value>now</value><value>later</value></choice></attribute>
      </optional>
    </element>"""

    install: tuple[str, ...]
    remove: tuple[str, ...]
    upgrade: bool
    recommends: bool
    initramfs: bool
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        packages = cls(
            element.words("install"),
            element.words("remove"),
            element.flag("upgrade"),
            element.flag("recommends"),
            (element.get("initramfs") or "now") == "now",
            element.place,
        )
        if not (packages.install or packages.remove or packages.upgrade):
            raise SpecError("packages does nothing", place=element.place, hint='say install="…", remove or upgrade')
        for name in (*packages.install, *packages.remove):
            if name.startswith("-"):
                raise SpecError(f"{name!r} is no package name", place=element.place, hint="options have attributes")
        return packages

    def title(self) -> str:
        words = [f"install {' '.join(self.install)}"] if self.install else []
        words += [f"remove {' '.join(self.remove)}"] if self.remove else []
        words += ["upgrade"] if self.upgrade else []
        text = ", ".join(words)
        return f"packages {text if len(text) <= 70 else text[:69] + '…'}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "install": list(self.install),
            "remove": list(self.remove),
            "upgrade": self.upgrade,
            "recommends": self.recommends,
            "initramfs": self.initramfs,
        }

    def run(self, guest: Guest) -> None:
        manager = _managers.find(guest)
        script = _managers.script(manager, self.install, self.remove, upgrade=self.upgrade, recommends=self.recommends)
        held = self._hold(guest, POLICY, REFUSE, 0o755)
        initramfs = None if self.initramfs else self._hold(guest, INITRAMFS, LATER, 0o644)
        guest.run(Command(script, env=None if self.initramfs else NO_INITRD, packages=True))
        # A failure needs no restoring: the state before this step is kept, and this one is thrown away.
        self._release(guest, POLICY, REFUSE, held)
        if not self.initramfs:
            self._release(guest, INITRAMFS, LATER, initramfs)

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
