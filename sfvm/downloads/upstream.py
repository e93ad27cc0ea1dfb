"""Connections to the servers that things are downloaded from, as far as a policy lets them.

What is connected to is what was judged: a name is looked up once, and its address checked. Certificates are verified
with the host's store. The host's own proxy settings (``http_proxy``, ``https_proxy``, ``no_proxy``) hold; behind such a
proxy, names are for it to look up.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import ssl
import threading
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from sfvm import __version__
from sfvm.downloads.policy import Policy, Refused, authority

STALLED = 60.0
"""Seconds without a byte after which a server counts as gone."""
BLOCK = 1 << 20
MAX_REDIRECTS = 10
REDIRECTIONS = (301, 302, 303, 307, 308)
PORTS = {"http": 80, "https": 443}
PERSONAL = ("Authorization", "Cookie")
"""What a request says to prove who asks."""


class Broken(OSError):
    """A server does not do what it should; the message says what."""


@dataclass(frozen=True)
class Target:
    """What is asked for: *url* without a fragment, *scheme* (http or https), *host* and *port* of its server, and the
    *path* with query."""

    url: str
    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str, policy: Policy) -> Target:
        """What *url* stands for: http of port 443, or of a place in ``policy.tls``, is https (see
        :func:`sfvm.downloads.policy.plain`).

        :raises Refused: it is no http or https URL, has a user, or leads where the policy does not let it
        """
        try:
            parts = urlsplit(url)
            port = parts.port or PORTS[parts.scheme]
            if not parts.hostname or not re.fullmatch(r"[!-~]+", url):
                raise ValueError
        except (ValueError, KeyError):
            raise Refused("only http and https URLs are served") from None
        if parts.username is not None:
            raise Refused("no URL with a user's name is served")
        host, scheme = parts.hostname, parts.scheme
        if port == 443 or authority(host, port) in policy.tls:
            scheme = "https"
        policy.check(host, port)
        path = SplitResult("", "", parts.path or "/", parts.query, "").geturl()
        return cls(f"{scheme}://{_netloc(host, port, scheme)}{path}", scheme, host, port, path)

    @property
    def server(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def netloc(self) -> str:
        return _netloc(self.host, self.port, self.scheme)


def _netloc(host: str, port: int, scheme: str) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port == PORTS[scheme] else f"{name}:{port}"


class Line:
    """What one request waits on, so that another thread can end it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._cut = False

    def hold(self, used: socket.socket) -> None:
        """:raises Broken: it is cut"""
        with self._lock:
            self.check()
            self._socket = used

    def release(self) -> None:
        """Wait no more: others may have the connection from now on.

        :raises Broken: it is cut
        """
        with self._lock:
            self.check()
            self._socket = None

    def check(self) -> None:
        """:raises Broken: it is cut"""
        if self._cut:
            raise Broken("it was given up")

    def cut(self) -> None:
        """Make who waits fail, now or later; from any thread."""
        with self._lock:
            self._cut = True
            if self._socket is not None:
                with contextlib.suppress(OSError):  # it has just ended
                    # Not SSLSocket's: who reads would go on, with ciphertext.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


Key = tuple[str, str, int, str]
"""Which connections are as good as each other: scheme, host, port, and the proxy between."""


class Answer:
    """A server's answer. *target* is who gave it, at the end of all redirections."""

    def __init__(
        self, pool: Pool, key: Key, target: Target, connection: http.client.HTTPConnection, method: str, line: Line
    ) -> None:
        self.target = target
        self._line = line
        self._pool = pool
        self._key = key
        self._connection = connection
        self._response = connection.getresponse()
        self.status = self._response.status
        self.reason = self._response.reason
        self.headers = self._response.headers
        length = self._response.length
        none = method == "HEAD" or self.status in (204, 304)
        self.length: int | None = 0 if none else length
        """Of the body, in bytes; None where the server does not say."""
        self.start: int | None = 0
        """The first byte of the content that the body has; None where the server does not say."""
        self.total = self.length
        """Of the whole content, of which the body may be a part, in bytes; None where the server does not say."""
        if self.status == http.client.PARTIAL_CONTENT:
            self.start, self.total = _part(self.headers.get("Content-Range", ""))
        self._ended = False

    def blocks(self) -> Iterator[bytes]:
        """The body.

        :raises OSError, http.client.HTTPException: it breaks off
        """
        while block := self._response.read1(BLOCK):
            yield block
        if self._response.length:
            raise http.client.IncompleteRead(b"", self._response.length)
        self._line.release()  # when it was cut, the end of what has no length may be that of the line
        self._response.close()  # read1 does not, and the connection would wait for it
        self._ended = True
        self._pool.give(self._key, self._connection, usable=not self._response.will_close)

    def close(self) -> None:
        """Read no more of it."""
        if not self._ended:  # else the connection may have another already
            self._response.close()
            self._connection.close()


class Pool:
    """Connections that are kept open between requests, for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[Key, list[http.client.HTTPConnection]] = {}
        self._closed = False

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def ask(self, method: str, target: Target, headers: Mapping[str, str], policy: Policy, line: Line) -> Answer:
        """The answer to a request, its body not read yet. Redirections of GET are followed,
        to another server without credentials. *line* ends it.

        :raises Refused: the policy does not let it go there, or to where it is sent
        :raises OSError, http.client.HTTPException: a server cannot be reached, or does not do what it should
        """
        seen = {target.url}
        while True:
            answer = self._ask(method, target, headers, policy, line)
            location = answer.headers.get("Location")
            if method != "GET" or answer.status not in REDIRECTIONS or not location:
                return answer
            answer.close()
            before, target = target, Target.parse(urljoin(target.url, location), policy)
            if target.server != before.server:
                headers = {name: value for name, value in headers.items() if name not in PERSONAL}
            if target.url in seen or len(seen) > MAX_REDIRECTS:
                raise Broken("it redirects in a loop" if target.url in seen else "it redirects too often")
            seen.add(target.url)

    def _ask(self, method: str, target: Target, headers: Mapping[str, str], policy: Policy, line: Line) -> Answer:
        if policy.offline:
            raise Refused("offline: it is not in the download cache")
        proxy = proxy_of(target)
        told = {"Host": target.netloc, "User-Agent": f"sfvm/{__version__}", "Accept-Encoding": "identity"}
        told |= headers
        where = target.path
        if proxy is not None and target.scheme == "http":
            where, told = target.url, told | _credentials(proxy)
        key = *target.server, proxy.geturl() if proxy else ""
        kept = self._take(key)
        if kept is not None:
            try:
                line.hold(kept.sock)
                return self._send(kept, key, method, target, where, told, line)
            except (OSError, http.client.HTTPException):  # closed meanwhile
                kept.close()
        connection = self.connect(target, policy)
        try:
            line.hold(connection.sock)
            return self._send(connection, key, method, target, where, told, line)
        except BaseException:
            connection.close()
            raise

    def _send(
        self,
        connection: http.client.HTTPConnection,
        key: Key,
        method: str,
        target: Target,
        where: str,
        headers: Mapping[str, str],
        line: Line,
    ) -> Answer:
        connection.putrequest(method, where, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return Answer(self, key, target, connection, method, line)

    def connect(self, target: Target, policy: Policy) -> http.client.HTTPConnection:
        """A new connection for requests to *target*; its ``sock`` is open."""
        proxy = proxy_of(target)
        if proxy is None:
            connection = http.client.HTTPConnection(target.host, target.port, timeout=STALLED)
            connection.sock = reach(target, policy)
        else:
            connection = http.client.HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=STALLED)
            if target.scheme == "https":
                connection.set_tunnel(target.host, target.port, _credentials(proxy))
            connection.connect()
        connection.auto_open = 0  # it would look the name up again
        if target.scheme == "https":
            try:
                connection.sock = self._tls.wrap_socket(connection.sock, server_hostname=target.host)
            except BaseException:
                connection.close()
                raise
        return connection

    def tunnel(self, host: str, port: int, policy: Policy) -> socket.socket:
        """A connection to *host*, for who speaks TLS over it himself.

        :raises Refused, OSError, http.client.HTTPException: as :meth:`ask`
        """
        target = Target(f"https://{host}:{port}", "https", host, port, "")
        proxy = proxy_of(target)
        if proxy is None:
            return reach(target, policy)
        connection = http.client.HTTPConnection(proxy.hostname or "", proxy.port or 80, timeout=STALLED)
        connection.set_tunnel(host, port, _credentials(proxy))
        connection.connect()
        return connection.sock

    def _take(self, key: Key) -> http.client.HTTPConnection | None:
        with self._lock:
            idle = self._idle.get(key)
            return idle.pop() if idle else None

    def give(self, key: Key, connection: http.client.HTTPConnection, *, usable: bool) -> None:
        """*connection* has nothing to do any more."""
        with self._lock:
            if usable and not self._closed:
                self._idle.setdefault(key, []).append(connection)
                return
        connection.close()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        for connections in idle.values():
            for connection in connections:
                connection.close()


def addresses(target: Target, policy: Policy) -> list[str]:
    """Where the server of *target* may be reached.

    :raises Refused: its name is one of the host itself, in disguise
    :raises OSError: nobody knows the name
    """
    name = authority(target.host, 0).rpartition(":")[0].strip("[]")
    found = socket.getaddrinfo(name, target.port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    reachable = [str(place[0]) for _, _, _, _, place in found]
    reachable = [address for address in reachable if policy.may_connect(target.host, target.port, address)]
    if not reachable:
        raise Refused(f"{target.host} is a name of the host itself")
    return reachable


def reach(target: Target, policy: Policy) -> socket.socket:
    """A connection to the server of *target*, without a proxy between.

    :raises Refused, OSError: as :func:`addresses`, or nobody answers there
    """
    failure = OSError()
    for address in addresses(target, policy):
        try:
            return socket.create_connection((address, target.port), STALLED)
        except OSError as error:
            failure = error
    raise failure


def _part(told: str) -> tuple[int | None, int | None]:
    """The first byte and the size of the whole, as Content-Range tells them (RFC 9110, section 14.4)."""
    found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(?:(\d{1,18})|\*)", told, re.ASCII)
    first, total = found.groups() if found else (None, None)
    return int(first) if first else None, int(total) if total else None


def proxy_of(target: Target) -> SplitResult | None:
    """The host's own proxy for *target*, as the environment says; never for the host itself."""
    url = urllib.request.getproxies().get(target.scheme)
    ours = authority(target.host, 0).startswith(("127.", "[::1]"))
    if not url or ours or urllib.request.proxy_bypass(target.host):
        return None
    return urlsplit(url if "://" in url else f"http://{url}")


def _credentials(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    plain = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {b64encode(plain.encode()).decode()}"}
