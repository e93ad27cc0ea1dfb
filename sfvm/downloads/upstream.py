"""Connections to the servers that guests download from, as the host makes them for a guest.

A guest has QEMU's user-mode network, which opens connections in the host's name to wherever the host may go, with two
exceptions: the guest's own network is 169.254.0.0/16, so link-local addresses of the host's are out of its reach
(clouds keep credentials there), and the host's loopback is reached at :data:`HOST` alone. Here it is the same.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

HOST = "169.254.2.2"
"""Where a guest reaches the host's loopback (libguestfs gives QEMU's network these addresses)."""
STALLED = 60.0
"""Seconds without a byte after which a server counts as gone."""
UNREACHABLE = "is_loopback", "is_link_local", "is_multicast", "is_unspecified", "is_reserved"


class Refused(Exception):
    """A guest may not go there; the message says why."""


@dataclass(frozen=True)
class Target:
    """What a guest asked for: *url* without a fragment, *host* and *port* of its server, and the *path* with query."""

    url: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """:raises Refused: it is no plain http URL"""
        try:
            parts = urlsplit(url)
            port = parts.port or 80
        except ValueError:
            raise Refused("it is no URL") from None
        if parts.scheme != "http" or not parts.hostname or parts.username is not None:
            raise Refused("only http URLs without a user are served")
        path = SplitResult("", "", parts.path or "/", parts.query, "").geturl()
        return cls(parts._replace(fragment="").geturl(), parts.hostname, port, path)


def addresses(host: str, port: int) -> list[str]:
    """The addresses to connect to for *host*.

    :raises Refused: it has none that a guest may reach
    :raises OSError: it cannot be found
    """
    if host == HOST:
        return ["127.0.0.1"]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    reachable = [str(place[0]) for _, _, _, _, place in found if allowed(str(place[0]))]
    if not reachable:
        raise Refused("a guest may not go there")
    return reachable


def allowed(text: str) -> bool:
    """Whether a guest may reach the address *text*."""
    found = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is not None:
            return allowed(str(inner))
    return not any(getattr(found, kind) for kind in UNREACHABLE)


class Connections:
    """Connections of one thread, kept open between requests."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, int], http.client.HTTPConnection] = {}

    def request(self, method: str, target: Target, headers: dict[str, str]) -> http.client.HTTPResponse:
        """The answer to a request, its body not read yet. The host's own proxy settings hold.

        :raises Refused: a guest may not go there
        :raises OSError, http.client.HTTPException: the server cannot be reached, or does not speak HTTP
        """
        proxy = _proxy(target.host)
        if proxy is None:
            key, where = (target.host, target.port), target.path
        else:
            key, where = (proxy.hostname or "", proxy.port or 80), target.url
            headers = headers | _credentials(proxy)
            if not _a_name_or_allowed(target.host):
                raise Refused("a guest may not go there")
        kept = self._open.pop(key, None)
        if kept is not None:
            try:
                return self._send(kept, key, method, where, headers)
            except (OSError, http.client.HTTPException):  # closed meanwhile
                kept.close()
        failure: OSError = ConnectionError("it has no address")
        for host in addresses(*key) if proxy is None else [key[0]]:
            connection = http.client.HTTPConnection(host, key[1], timeout=STALLED)
            try:
                return self._send(connection, key, method, where, headers)
            except OSError as error:
                connection.close()
                del self._open[key]
                failure = error
        raise failure

    def _send(
        self, connection: http.client.HTTPConnection, key: tuple[str, int], method: str, where: str,
        headers: dict[str, str],
    ) -> http.client.HTTPResponse:  # fmt: skip
        self._open[key] = connection
        connection.putrequest(method, where, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    def drop(self) -> None:
        """Close them all: after an answer whose body was not read, none may be used again."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()

    def abort(self) -> None:
        """Make whatever waits for a server fail; from any thread."""
        for connection in list(self._open.values()):
            if (open_socket := connection.sock) is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    open_socket.shutdown(socket.SHUT_RDWR)


def _proxy(host: str) -> SplitResult | None:
    """The host's own HTTP proxy for requests to *host*, as the environment says; never for the host itself."""
    url = urllib.request.getproxies().get("http")
    if not url or host == HOST or urllib.request.proxy_bypass(host):
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    plain = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(plain.encode()).decode()}"}


def _a_name_or_allowed(host: str) -> bool:
    """Behind a proxy of the host's, names are the proxy's to resolve."""
    try:
        return allowed(host)
    except ValueError:
        return host != "localhost"
