"""What apt is told, by the base that installs a Debian and by the steps that add to it."""

from __future__ import annotations

from sfvm.guest import KEPT, LOCKED

UNPACKED = (
    "p=/proc/1/root; if [ -x $p/usr/lib/sfvm/unpacked ]; "
    "then exec chroot $p /usr/lib/sfvm/unpacked; else exec cat >/dev/null; fi"
)
"""A command for ``DPkg::Pre-Install-Pkgs``, which replaces packages by their unpacked form (``appliance/unpacked``).
Process 1 of a command's own PID namespace has the appliance's root, in whatever chroot apt runs this."""
OLD = (
    f'if [ -n "${LOCKED}" ]; then '
    """echo 'Acquire::Check-Valid-Until "false";' >>"$1/etc/apt/apt.conf.d/99mmdebstrap"; fi"""
)
"""A setup hook of mmdebstrap: the indexes of a lock may be out of date. The file is mmdebstrap's own."""
HOME = f"{KEPT}/apt"
LISTS = f"{HOME}/lists"
"""Indexes are kept here, outside of the guest, for all steps of one appliance: fetching and reading them is a large
part of a small installation."""
STAMP = f"{HOME}/sources"
"""What LISTS belongs to: SOURCES as it was when they were fetched."""
SOURCES = (
    "{ dpkg --print-architecture; dpkg --print-foreign-architectures; "
    "find -L /etc/apt /usr/share/keyrings -type f ! -name *mmdebstrap -exec sha256sum {} + 2>/dev/null | sort; } "
    "| sha256sum"
)
"""A command of the guest: a digest of everything that says what is fetched, and what is trusted."""
MINUTES = 60
"""After so many, indexes are fetched again, however long the steps of one appliance take."""


def refresh(update: str) -> str:
    """A script of the guest: *update* fetches indexes into LISTS, unless those that are there will do."""
    return f"""sources=$({SOURCES})
if [ "$(find {STAMP} -mmin -{MINUTES} -exec cat {{}} + 2>/dev/null)" != "$sources" ]; then
    rm -rf {HOME}
    mkdir -p {LISTS}/partial
    {update}
    echo "$sources" >{STAMP}
fi"""


def keep(root: str) -> str:
    """A script of the appliance: move the indexes of the guest in *root* (quoted) to LISTS."""
    return (
        f"mkdir -p {LISTS}/partial && mv {root}/var/lib/apt/lists/*_* {LISTS}/ && "
        f"chroot {root} sh -c '{SOURCES}' >{STAMP} || rm -rf {HOME}"
    )
