"""What commands in the appliance write, line by line, over a virtio-serial port of its own.

QEMU connects to our socket when it starts; a thread reads. A command's output ends with a record that carries its
number and exit status (``appliance/run`` writes it), so nothing is lost between the last line and the status.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from sfvm.appliance.handshake import Handshake

END = re.compile("\x1e([0-9]{1,20}) ([0-9]{1,3})")
"""The last line of a command's output: ASCII's record separator, ``NUMBER STATUS``. Anything else is output."""
READY = "\x1eready"
"""What ``init`` says, once, before there is any guest: one that says it later is not heard."""
MAX_LINE = 64 << 10


class LogChannel:
    """The host's end of the port ``org.sfvm.log``."""

    def __init__(self, path: Path, log: Callable[[str], None], handshake: Handshake) -> None:
        self.path = path
        self.log = log
        self.handshake = handshake
        self._ends: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._read, name="appliance log", daemon=True)
        self._thread.start()

    def wait(self, number: int) -> int | None:
        """The exit status of command *number*, once all its output has been logged; None when the appliance died."""
        while True:
            end = self._ends.get()
            if end is None:
                self._ends.put(None)
                return None
            if end[0] == number:
                return end[1]

    def close(self) -> None:
        """Stop reading. QEMU must be gone, or never have connected."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as nobody:
            nobody.connect(str(self.path))  # ends an accept() that QEMU never answered
        self._thread.join()
        self._listener.close()
        self.path.unlink(missing_ok=True)

    def _read(self) -> None:
        connection, _ = self._listener.accept()
        try:
            # Whatever ends the connection means that the appliance is gone: who waits for a command is told.
            with connection, contextlib.suppress(OSError):
                self.handshake.opened(connection.sendall)
                self._take(connection)
        finally:
            self._ends.put(None)

    def _take(self, connection: socket.socket) -> None:
        rest, booting = b"", True
        empty = False  # an empty line is held back: one stands before the end record and is not the command's
        while data := connection.recv(64 << 10):
            *lines, rest = (rest + data).split(b"\n")
            for raw in lines:
                line = raw.decode("utf-8", errors="replace").rstrip("\r")
                end = END.fullmatch(line)
                if end or (booting and line == READY):
                    empty = False
                    if end:
                        self._ends.put((int(end[1]), int(end[2])))
                    else:
                        booting = False
                        self.handshake.ready(connection.sendall)
                    continue
                if empty:
                    self.log("")
                empty = not line
                if line:
                    self.log(line)
            if len(rest) > MAX_LINE:
                self.log(rest.decode("utf-8", errors="replace"))
                rest = b""
