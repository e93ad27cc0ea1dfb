"""pacman: Arch and its kin. It knows one version of a package, that of the repository: ``name=version`` fails, in its
own words, where this is another. Arch supports no machine of which a part is upgraded: what is installed comes with an
upgrade of all that is not held."""

from __future__ import annotations

from collections.abc import Sequence

from sfvm.managers.manager import OPEN, Addition, Manager, Source, given, literal

CONFIGURATION = "/etc/pacman.conf"
KEYRING = "/etc/pacman.d/gnupg"
TRUST = f"""gpg="gpg --batch --no-autostart --no-permission-warning --homedir {KEYRING}"
mkdir -p {KEYRING}
trust() {{
    $gpg --import "$1"
    $gpg --with-colons --show-keys "$1" |
        awk -F: '$1 == "pub" {{ key = 1 }} $1 == "fpr" && key {{ key = 0; print $10 ":6:" }}' | $gpg --import-ownertrust
}}
"""
"""A function of the guest's shell that makes pacman trust the keys in a file. pacman-key would have the guest make, and
keep, a secret key of its own to sign them with: every image would hold the same one."""

OURS = "/run/sfvm/pacman.conf"
PACMAN = f"pacman --config {OURS} --noconfirm"
PLAIN = f"pacman-conf | sed -E '/^Server = /{OPEN}' >{OURS}"
"""The guest's configuration, in which https is written so that what is fetched passes the proxy in the open
(:func:`sfvm.downloads.policy.plain`)."""


def section(source: Source) -> str:
    """A repository's section (pacman.conf(5)). The signatures of packages are always required."""
    level = "Required" if source.index else "Required DatabaseOptional"
    return f"[{source.name}]\nSigLevel = {level}\nServer = {source.url}\n"


def _add(source: Source, keys: Sequence[str]) -> Addition:
    path = f"/etc/pacman.d/{source.name}.conf"
    script = TRUST + "".join(f"trust {key}\n" for key in given(source, keys))
    script += f"grep -qxF 'Include = {path}' {CONFIGURATION} || echo 'Include = {path}' >>{CONFIGURATION}\n"
    return Addition({path: section(source)}, script)


def _hold(names: Sequence[str]) -> str:
    return f"sed -i '/^\\[options\\]/a IgnorePkg = {' '.join(names)}' {CONFIGURATION}"


def _unhold(names: Sequence[str]) -> str:
    """From the lines that are there, whoever has written them."""
    lines = [f"s/([= ]){literal(name)}( |$)/\\1\\2/g" for name in names]
    return f"sed -E -i '/^IgnorePkg *=/{{{';'.join(lines)};/= *$/d}}' {CONFIGURATION}"


REMOVE = """set --
for name in {}; do
    pacman -Qq "$name" >/dev/null 2>&1 || pacman -Qqg "$name" >/dev/null 2>&1 || continue
    set -- "$@" "$name"
done
[ $# = 0 ] || pacman -Rns --noconfirm "$@"
""".rstrip()
"""A package that is not there is what was wanted, as for other managers."""

MANAGER = Manager(
    "pacman",
    "/usr/bin/pacman",
    f"{PLAIN}\n{PACMAN} -Sy",
    f"{PACMAN} -Su --needed {{}}",
    REMOVE,
    f"{PACMAN} -Su",
    "rm -rf /var/cache/pacman/pkg/* /var/lib/pacman/sync/*",
    hold=_hold,
    unhold=_unhold,
    add=_add,
    group="{}",
)
