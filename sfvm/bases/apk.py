"""``apk``: Alpine Linux, installed by the appliance's apk, where the host's distribution has one."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.bases._installroot import MOUNTED, SYNCED, names, server
from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.managers.apk import REPOSITORIES, rsa_keys
from sfvm.verbs import JSON, Attached, Host

HOME = "/run/sfvm/apk"


@dataclass(frozen=True)
class Apk:
    """A first package set, by apk(8) in the appliance, of Alpine Linux.

    Example::

        <base><apk release="v3.22" url="https://dl-cdn.alpinelinux.org/alpine"
                   include="alpine-base" rsa-keys="alpine-devel@lists.alpinelinux.org-6165ee59.rsa.pub"/></base>

    The ``repositories`` (``main community``) are below ``url``, or below ``mirror`` where that is not empty, at
    ``RELEASE/REPOSITORY``. Their indexes must be signed by one of the ``rsa-keys``, files next to the spec whose names
    are those that the signatures tell; the guest gets both. Debian has no apk: there begin with what Alpine publishes,
    by ``archive``, as the spec ``alpine`` does.
    """

    element: ClassVar[str] = "apk"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="apk">
      <attribute name="release"><ref name="word"/></attribute>
      <attribute name="url"><ref name="string"/></attribute>
      <optional><attribute name="mirror"><ref name="string"/></attribute></optional>
      <optional><attribute name="repositories"><ref name="words"/></attribute></optional>
      <optional><attribute name="include"><ref name="words"/></attribute></optional>
      <attribute name="rsa-keys"><ref name="words"/></attribute>
    </element>"""

    release: str
    repositories: tuple[str, ...]
    include: tuple[str, ...]
    rsa: Mapping[str, str]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        (release,) = names(element, "release")
        listed = names(element, "repositories") or ("main", "community")
        return cls(
            release,
            tuple(f"{server(element)}/{release}/{name}" for name in listed),
            names(element, "include") or ("alpine-base",),
            rsa_keys(element),
            element.place,
        )

    def title(self) -> str:
        return f"apk {self.release}"

    def inputs(self) -> Mapping[str, JSON]:
        return {"repositories": list(self.repositories), "include": list(self.include), "rsa": dict(self.rsa)}

    def facts(self) -> Mapping[str, str]:
        return {"distribution": "alpine", "release": self.release}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        if shutil.which("apk") is None:
            raise SpecError(
                "there is no apk on this machine, so the helper VM has none",
                place=self.place,
                why="its package is apk-tools, which Debian 12 does not have",
                hint='begin with what Alpine publishes, <archive src="…/alpine-minirootfs-….tar.gz" sha256="…"/>',
            )
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        for name, content in self.rsa.items():
            guest.write(f"/etc/apk/keys/{name}", content.encode())
        guest.write(REPOSITORIES, "".join(f"{url}\n" for url in self.repositories).encode())
        guest.run(Command(self.script(), place="appliance", packages=True))

    def script(self) -> str:
        """What runs in the appliance; the keys are in the guest already."""
        listed = "\n".join(plain(url) for url in self.repositories)
        return (
            f"mkdir -p {HOME}\ntrap 'rm -rf {HOME}' EXIT\ncat >{HOME}/repositories <<'END'\n{listed}\nEND\n{MOUNTED}"
            f"/usr/lib/sfvm/nosync apk --root /sysroot --initdb --no-cache --repositories-file {HOME}/repositories "
            f"add {shlex.join(self.include)}\n{SYNCED}"
        )
