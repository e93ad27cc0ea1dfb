"""QEMU's monitor: one command at a time over a Unix socket (QEMU's ``docs/interop/qmp-spec.txt``)."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path
from typing import Any

from sfvm.errors import ApplianceError


class Refused(ApplianceError):
    """QEMU lives, and does not do what it was asked for."""


class Monitor:
    """A connection to the monitor at *path*."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
            self._file = self._socket.makefile("rw", encoding="utf-8")
            self._file.readline()  # greeting
            self.execute("qmp_capabilities", {})
        except OSError as error:
            self._socket.close()
            raise ApplianceError("the appliance died", why=f"QEMU's monitor is gone ({error})") from error

    def execute(self, command: str, arguments: dict[str, Any]) -> Any:
        """Run *command* and return its result.

        :raises Refused: QEMU says why not
        :raises ApplianceError: QEMU is gone
        """
        with self._gone():
            self._file.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            self._file.flush()
        while True:
            answer = self._read()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise Refused(f"QEMU refused {command}", why=answer["error"]["desc"])

    def event(self, name: str) -> dict[str, Any]:
        """Wait for the next event *name* and return its data.

        :raises ApplianceError: QEMU is gone
        """
        while (answer := self._read()).get("event") != name:
            pass
        return dict(answer.get("data", {}))

    def _read(self) -> dict[str, Any]:
        with self._gone():
            line = self._file.readline()
        if not line:
            raise ApplianceError("the appliance died", why="QEMU closed its monitor")
        return dict(json.loads(line))

    @contextlib.contextmanager
    def _gone(self) -> Any:
        try:
            yield
        except OSError as error:
            raise ApplianceError("the appliance died", why=f"QEMU's monitor is gone ({error})") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()
