"""``pacman``: Arch Linux and its relatives, installed by the appliance's pacman."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm import keys
from sfvm.bases._installroot import CACHE, MOUNTED, SYNCED, names, server
from sfvm.document import Element
from sfvm.downloads.policy import plain
from sfvm.errors import Place
from sfvm.guest import Command, Guest
from sfvm.keys import Keys
from sfvm.verbs import JSON, Attached, Host

HOME = "/run/sfvm/pacman"
"""Of configuration and keyring while pacman runs: the appliance's memory."""
KEYRING = "/sysroot/etc/pacman.d/gnupg"
OPTIONS = f"""\
[options]
RootDir = /sysroot/
DBPath = /sysroot/var/lib/pacman/
CacheDir = {CACHE}/
LogFile = /sysroot/var/log/pacman.log
HookDir = /sysroot/etc/pacman.d/hooks/
GPGDir = {HOME}/gnupg/
Architecture = auto
CheckSpace
SigLevel = Required DatabaseOptional
"""
"""pacman.conf(5). Every package must be signed; a database may be, and Arch's are not."""
GPG = f"""\
export GNUPGHOME
gpg() {{ command gpg --batch --quiet --no-permission-warning --no-auto-check-trustdb --trust-model pgp "$@"; }}
empty() {{
    GNUPGHOME=$(mktemp -d {HOME}/keys.XXXXXX)
    ln -sfn "$GNUPGHOME" {HOME}/gnupg
    touch "$GNUPGHOME/pubring.gpg"
}}
"""
"""An empty keyring has a place of its own: the agent of the one before would remove the socket of the next."""
NAMED = """\
empty
gpg --import "$@"
gpg --with-colons --list-keys | awk -F: '$1 == "pub" { key = 1 } $1 == "fpr" && key { key = 0; print $10 ":6:" }' |
    gpg --import-ownertrust
gpg --check-trustdb
"""
"""The keys in the script's arguments are valid by themselves."""
POPULATE = """\
populate() {
    empty
    gpg --import "$1/archlinux.gpg"
    known=$(gpg --with-colons --list-keys | awk -F: '$1 == "fpr" { print $10 }')
    revoked=$(echo "$known" | grep -xFf "$1/archlinux-revoked" || true)
    [ -z "$revoked" ] || gpg --yes --delete-keys $revoked
    gpg --passphrase '' --quick-generate-key pacman@localhost ed25519 cert never
    for key in $(cut -d: -f1 "$1/archlinux-trusted"); do gpg --yes --quick-lsign-key "$key" >/dev/null; done
    gpg --import-ownertrust "$1/archlinux-trusted"
    gpg --check-trustdb
}
"""
"""What ``pacman-key --populate`` does, whose Debian package wants makepkg, and that TeX: a key of the moment makes the
master keys valid, which vouch for the packagers."""

DISTRIBUTION = f"""\
populate /usr/share/keyrings
{{pacman}} -Sydd --downloadonly archlinux-keyring
keyring=$(ls {CACHE}/archlinux-keyring-*.pkg.tar.* | grep -v '\\.sig$')
tar -C {HOME} -xf "$keyring" --strip-components=3 usr/share/pacman/keyrings
populate {HOME}/keyrings
"""
"""The host's archlinux-keyring may be years old: the mirror's, whose signer it knows, knows today's packagers."""


@dataclass(frozen=True)
class Pacman:
    """A first package set, by pacman(8) in the appliance, of Arch Linux and its kin.

    Example::

        <base><pacman url="https://geo.mirror.pkgbuild.com" include="base linux"/></base>

    The ``repositories`` (``core extra``) are below ``url``, or below ``mirror`` where that is not empty: at
    ``$repo/os/$arch``, unless it says that otherwise with these variables of pacman's.

    Every package must be signed: by a packager whom Arch's master keys vouch for (the host's archlinux-keyring knows
    them, then the mirror's own newer one), or, with ``keys``, or ``key-url`` and ``fingerprint``, by these keys and no
    other.

    ``distribution`` is the fact of that name (``arch``). The guest gets the mirror in its ``mirrorlist``, and a keyring
    without a secret: ``pacman-key --init`` makes a key of the machine's own.
    """

    element: ClassVar[str] = "pacman"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = f"""
    <element name="pacman">
      <attribute name="url"><ref name="string"/></attribute>
      <optional><attribute name="mirror"><ref name="string"/></attribute></optional>
      <optional><attribute name="repositories"><ref name="words"/></attribute></optional>
      <optional><attribute name="include"><ref name="words"/></attribute></optional>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>{keys.SCHEMA}
    </element>"""

    server: str
    repositories: tuple[str, ...]
    include: tuple[str, ...]
    distribution: str
    keys: Keys
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        url = server(element)
        return cls(
            url if "$repo" in url else f"{url}/$repo/os/$arch",
            names(element, "repositories") or ("core", "extra"),
            names(element, "include") or ("base",),
            element.get("distribution") or "arch",
            Keys.parse(element),
            element.place,
        )

    def title(self) -> str:
        return f"pacman {' '.join(self.repositories)}"

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "server": self.server,
            "repositories": list(self.repositories),
            "include": list(self.include),
            "distribution": self.distribution,
            "keys": self.keys.inputs(),
        }

    def facts(self) -> Mapping[str, str]:
        return {"distribution": self.distribution, "release": "rolling"}

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        script = self.script(self.keys.write(guest) if self.keys else ())
        guest.run(Command(script, place="appliance", packages=True))

    def configuration(self) -> str:
        """pacman.conf(5)."""
        return OPTIONS + "".join(f"\n[{name}]\nServer = {plain(self.server)}\n" for name in self.repositories)

    def script(self, files: tuple[str, ...]) -> str:
        """What runs in the appliance; packages are signed by the keys in *files*, or by Arch's packagers."""
        pacman = f"/usr/lib/sfvm/nosync pacman --config {HOME}/pacman.conf --noconfirm --noprogressbar"
        return "".join(
            [
                f"rm -rf {HOME} {CACHE}\ntrap 'rm -rf {HOME} {CACHE}' EXIT\n",
                f"mkdir -p {HOME} {CACHE} /sysroot/var/lib/pacman /sysroot/var/log\n",
                f"cat >{HOME}/pacman.conf <<'END'\n{self.configuration()}END\n",
                GPG,
                f"set -- {shlex.join(files)}\n{NAMED}" if files else POPULATE + DISTRIBUTION.format(pacman=pacman),
                # The secret of the key of the moment ends here.
                'rm -rf "$GNUPGHOME"/private-keys-v1.d "$GNUPGHOME"/openpgp-revocs.d "$GNUPGHOME"/*~\n',
                MOUNTED,
                f"{pacman} -Sy --needed {shlex.join(self.include)}\n",
                "rm -rf /sysroot/var/lib/pacman/sync\n",
                "if [ -x /sysroot/usr/bin/pacman ]; then\n",
                f"    mkdir -p {KEYRING}\n",
                f'    install -m 644 "$GNUPGHOME/pubring.gpg" "$GNUPGHOME/trustdb.gpg" {KEYRING}/\n',
                f"    printf '%s\\n' no-greeting no-permission-warning lock-never >{KEYRING}/gpg.conf\n",
                f"    echo {shlex.quote(f'Server = {self.server}')} >/sysroot/etc/pacman.d/mirrorlist\n",
                "fi\n",
                SYNCED,
            ]
        )
