"""The forward proxy through which the commands of one VM reach the network, and nothing else does.

It listens on the host's loopback. Who connects says the token of a session first, on a line of its own: so the relay of
a command in the VM does (``appliance/relay``), and the command's requests are judged by that session's policy. GET of
http and https is answered from the download cache, or fetched and kept there; what a URL had is asked for again with
its validators, unless the URL names one content for ever; and a URL that one command asks for twice is fetched anew,
because what came first was of no use to it. HEAD, and requests with credentials for what has no known
digest, are passed on. CONNECT makes a tunnel.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from sfvm.downloads.access import Access
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.handler import Handler, Server
from sfvm.downloads.session import Session

CLIENTS = 64
"""So many connections are served at once; more are closed."""


class Proxy:
    """Runs from its making until :meth:`close`.

    :raises OSError: it cannot listen
    """

    def __init__(self) -> None:
        self._server = _Server()
        # It looks that often, in seconds, whether it shall end.
        serve = functools.partial(self._server.serve_forever, poll_interval=0.1)
        self._thread = threading.Thread(target=serve, name="download proxy", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def unpack(self, exchange: Exchange | None) -> None:
        """From here on packages that pass are unpacked into *exchange*, and ``POST /unpacked``, a JSON list of SHA-256
        digests, is answered by lines ``DIGEST OFFSET LENGTH``."""
        self._server.exchange = exchange

    @contextlib.contextmanager
    def session(self, access: Access, hosts: tuple[str, ...] | None = None) -> Iterator[Session]:
        """A session of a command that may reach *hosts* (None: what the policy allows). At its end its connections are
        closed, and all that they had is recorded."""
        session = Session(access, access.policy.asking(hosts))
        self._server.sessions[session.token] = session
        try:
            yield session
        finally:
            del self._server.sessions[session.token]
            self._server.end(lambda handler: handler.session is session)

    def close(self) -> None:
        """End every connection and the thread."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(Server):
    daemon_threads = True
    block_on_close = False  # looking up a name cannot be interrupted

    def __init__(self) -> None:
        self.exchange = None
        self.sessions: dict[str, Session] = {}
        self._handlers: set[Handler] = set()
        self._changed = threading.Condition()
        self._free = threading.BoundedSemaphore(CLIENTS)
        super().__init__(("127.0.0.1", 0), Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def enter(self, handler: Handler) -> None:
        with self._changed:
            self._handlers.add(handler)

    def leave(self, handler: Handler) -> None:
        with self._changed:
            self._handlers.discard(handler)
            self._changed.notify_all()

    def end(self, which: Callable[[Handler], bool]) -> None:
        """End the connections of handlers *which*, and wait until they are gone, but for those that look up a name."""
        with self._changed:
            for handler in filter(which, self._handlers):
                handler.abort()
            self._changed.wait_for(lambda: not any(map(which, self._handlers)), timeout=5)

    def server_close(self) -> None:
        super().server_close()
        self.end(lambda handler: True)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; it is no concern of the user's terminal either."""
