"""What may be downloaded by a build, and from where: decided here, for guests (through the proxy) and for the host.

The rules, in this order:

1. *offline*: nothing is asked for over the network. What the download cache has is served.
2. *locked*: only its URLs are served, each with its content, whatever else is allowed.
3. The host itself (its loopback, and link-local addresses, where clouds keep credentials) is reached at an address and
   port that the user named, and nowhere else: as the URL of a ``--param`` or by ``--allow-host``. A spec cannot.
4. What the command may reach: ``run network="…"`` lists it. A package manager may reach any host of the public network
   or the user's own: which mirror a distribution sends it to is not known before, and it checks the signatures of what
   it gets, from wherever it came.
5. What the user allows: with ``--allow-host`` (or the setting ``allow_hosts``) only these hosts, whoever asks.

Every redirection is judged like the first URL. Tunnels (``CONNECT``, https as the guest speaks it) go to port 443, or
to a port that is listed with its host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from sfvm.config import Settings
from sfvm.errors import UsageError

HOST = "169.254.2.2"
"""Where a guest reaches the host's loopback (libguestfs gives QEMU's network these addresses)."""
PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_-][A-Za-z0-9._-]*(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?")
"""A host, or ``*.`` and a domain, whose hosts are meant; with a port, or any."""
OURS = "is_loopback", "is_link_local", "is_multicast", "is_unspecified", "is_reserved"
"""What :mod:`ipaddress` says of addresses that are reached when they were named only."""


class Refused(Exception):
    """The policy says no; the message says why, and what to do. *status* is what HTTP calls that."""

    status = 403


class NotLocked(Refused):
    """The lock does not have it: as if there were no such thing. Package managers ask for what a repository need not
    have, and go on when it is not there."""

    status = 404


@dataclass(frozen=True)
class Policy:
    """See the module. *allowed* are the user's patterns and *asked* the command's (None: any host), *named* the places
    ``HOST:PORT`` of the host itself that the user named. *locked* has the SHA-256 of each URL that may be had (None: no
    lock). *tls* are places ``HOST:PORT`` that guests ask for over http and that are reached by https."""

    allowed: tuple[str, ...] | None = None
    asked: tuple[str, ...] | None = None
    named: frozenset[str] = frozenset()
    offline: bool = False
    locked: Mapping[str, str] | None = None
    tls: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: Settings, values: Iterable[str] = ()) -> Policy:
        """What the user said: by *settings*, and the *values* of params given on the command line.

        :raises UsageError: a host to allow is none
        """
        hosts = settings.allow_hosts
        for host in hosts:
            if not PATTERN.fullmatch(host):
                raise UsageError(f"{host!r} is no host to allow", hint="example.org, *.example.org or HOST:PORT")
        urls = [place for value in values if (place := _place_of(value)) is not None]
        named = frozenset(place for text in (*hosts, *urls) if (place := _named(text)) is not None)
        return cls(allowed=(*hosts, *sorted(named)) if hosts else None, named=named, offline=settings.offline)

    def asking(self, hosts: tuple[str, ...] | None) -> Policy:
        """The same for a command that may reach *hosts* (None: all that the policy allows)."""
        return replace(self, asked=hosts)

    @property
    def scope(self) -> tuple[object, ...]:
        """What decides where a redirection may lead."""
        return self.allowed, self.asked, self.named

    def check(self, host: str, port: int, *, tunnel: bool = False) -> None:
        """:raises Refused: nothing may be had from there"""
        place = authority(host, port)
        if _is_ours(host) and place not in self.named:
            raise Refused(f"{place} is the host itself: name it with --allow-host {place}, or in the URL of a --param")
        if self.asked is not None and not _matches(self.asked, host, port):
            raise Refused(f'{place} is not in network="{" ".join(self.asked)}" of this step')
        if self.allowed is not None and not _matches(self.allowed, host, port):
            raise Refused(f"{place} is not allowed: add --allow-host {place.removesuffix(f':{port}')}")
        if tunnel and port != 443 and place not in self.named:
            listed = [
                pattern for pattern in (*(self.asked or ()), *(self.allowed or ())) if pattern.endswith(f":{port}")
            ]
            if not _matches(listed, host, port):
                raise Refused(f"a tunnel to port {port} is allowed where it is listed: {place}")

    def may_connect(self, host: str, port: int, address: str) -> bool:
        """Whether *host*, which was found at *address*, is no name for the host itself in disguise."""
        return authority(host, port) in self.named or not _is_ours(address)


def authority(host: str, port: int) -> str:
    """``HOST:PORT``, in one spelling: the host's loopback is ``127.0.0.1``, by whichever name a guest knows it."""
    host = host.lower().rstrip(".")
    if host in (HOST, "localhost"):
        host = "127.0.0.1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain(url: str) -> str:
    """*url* as a package manager is told it so that what it fetches passes the proxy in the open, is kept and can be
    locked: ``https://HOST/…`` becomes ``http://HOST:443/…``, which the proxy fetches by https and checks the
    certificate of. Another port of https, and any other URL, stays as it is."""
    return re.sub(r"^https://(\[[^\]/]+\]|[^/:@?#]+)(:443)?(?=[/?#]|$)", r"http://\1:443", url, flags=re.IGNORECASE)


def _matches(patterns: Iterable[str], host: str, port: int) -> bool:
    return any(_match(pattern, host, port) for pattern in patterns)


def _match(pattern: str, host: str, port: int) -> bool:
    name, colon, number = pattern.rpartition(":")
    if not colon or not number.isdigit():
        name, number = pattern, str(port)
    wanted, found = authority(name.strip("[]"), 0), authority(host, 0)
    if wanted.startswith("*."):
        return found.endswith(wanted[1:]) and number == str(port)
    return found == wanted and number == str(port)


def _place_of(value: str) -> str | None:
    """``HOST:PORT`` of a URL; None for what is none."""
    try:
        parts = urlsplit(value)
        usual = {"http": 80, "https": 443, "sftp": 22}[parts.scheme]
        port = parts.port or usual
    except (ValueError, KeyError):
        return None
    return authority(parts.hostname, port) if parts.hostname else None


def _named(text: str) -> str | None:
    """*text*, ``HOST:PORT``, in one spelling when that is a place of the host itself."""
    name, colon, number = text.rpartition(":")
    name = name.strip("[]")
    return authority(name, int(number)) if colon and number.isdigit() and _is_ours(name) else None


def _is_ours(host: str) -> bool:
    """Whether *host*, a name or an address, is the host itself, or what only the host should reach."""
    import ipaddress  # for builds only
    import socket

    host = host.lower().rstrip(".").partition("%")[0]
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        try:
            found = ipaddress.ip_address(socket.inet_aton(host))  # 0x7f.1 and the like
        except OSError:
            return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is not None:
            return _is_ours(str(inner))
    return any(getattr(found, kind) for kind in OURS)
