"""A tunnel: bytes both ways between two sockets, until one side has nothing more to say and the other has answered."""

from __future__ import annotations

import contextlib
import socket
import threading
from io import BufferedIOBase

BLOCK = 64 << 10


class Tunnel:
    """Between a client, whose bytes come from *reading* and go to *client*, and a *server*."""

    def __init__(self, reading: BufferedIOBase, client: socket.socket, server: socket.socket) -> None:
        self.reading = reading
        self.client = client
        self.server = server
        self.received = 0
        """Bytes that came from the server."""

    def run(self) -> None:
        """Until both ends are done, or one breaks off."""
        for end in (self.client, self.server):
            end.settimeout(None)
        back = threading.Thread(target=self._receive, name="tunnel", daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            while data := self.reading.read1(BLOCK):
                self.server.sendall(data)
        _shut(self.server, socket.SHUT_WR)
        back.join()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.server.recv(BLOCK):
                self.received += len(data)
                self.client.sendall(data)
        # What the client still wants to say nobody hears.
        _shut(self.client, socket.SHUT_RDWR)

    def abort(self) -> None:
        """End it, from another thread."""
        for end in (self.client, self.server):
            _shut(end, socket.SHUT_RDWR)


def _shut(end: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it has just ended
        end.shutdown(how)
