"""The installed packages of a guest, as its own database tells."""

from __future__ import annotations

import io
from collections.abc import Iterator

from sfvm.guest import Command, CommandFailed, Guest, Package

DPKG = "/var/lib/dpkg/status"
APK = "/lib/apk/db/installed"
PACMAN = "/var/lib/pacman/local"
RPM = ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
KEY = "gpg-pubkey"
"""What rpm calls a key that it trusts (rpmkeys(8)). It lists them with the packages, which they are not."""


def installed(guest: Guest) -> tuple[Package, ...]:
    """Sorted; empty when the guest has no package database."""
    if guest.exists(DPKG):
        return tuple(sorted(dpkg(_text(guest, DPKG))))
    if guest.exists(APK):
        return tuple(sorted(apk(_text(guest, APK))))
    if guest.exists(PACMAN):
        return _query(guest, "pacman -Q | sed 's/ /\\t/'")
    if any(guest.exists(path) for path in RPM) and guest.exists("/usr/bin/rpm"):
        return _query(guest, r"rpm -qa --qf '%{NAME}\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\t%{ARCH}\n'")
    return ()


def dpkg(status: str) -> Iterator[Package]:
    """The packages of a dpkg status file (deb822 stanzas) that are installed."""
    for stanza in status.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] not in " \t")
        if fields.get("Status", "").endswith(" installed") and "Package" in fields and "Version" in fields:
            yield Package(fields["Package"], fields["Version"], fields.get("Architecture", ""))


def apk(database: str) -> Iterator[Package]:
    """The packages of apk's installed database (fields ``P:``, ``V:``, ``A:``)."""
    for stanza in database.split("\n\n"):
        fields = dict(line.split(":", 1) for line in stanza.splitlines() if line[1:2] == ":")
        if "P" in fields and "V" in fields:
            yield Package(fields["P"], fields["V"], fields.get("A", ""))


def listed(output: str) -> Iterator[Package]:
    """The packages in what rpm or pacman was asked to print: lines ``NAME<tab>VERSION<tab>ARCHITECTURE``."""
    for line in filter(None, output.splitlines()):
        package = Package(*line.split("\t"))
        if package.name != KEY:
            yield package


def _text(guest: Guest, path: str) -> str:
    buffer = io.BytesIO()
    guest.download(path, buffer)
    return buffer.getvalue().decode("utf-8", errors="replace")


def _query(guest: Guest, script: str) -> tuple[Package, ...]:
    try:
        output = guest.capture(Command(script, network=False))
    except CommandFailed:
        return ()  # a broken database is the guest's own affair; the build does not depend on it
    return tuple(sorted(listed(output)))
