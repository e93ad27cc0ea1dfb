"""The state of a running VM, written by QEMU's migration."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import IO

from sfvm.appliance.qmp import Monitor, Refused

BANDWIDTH = 1 << 40
"""Bytes per second: no limit (QEMU's own is 128 MiB)."""
DOWNTIME = 60_000
"""Milliseconds that the VM may stand still: it does nothing meanwhile but wait for us, so one pass is enough."""
PATIENCE = 60.0
"""Seconds without a byte after which QEMU counts as gone."""
CHUNK = 1 << 20


def write_state(monitor: Monitor, directory: Path, target: IO[bytes]) -> str:
    """Write the state of the VM behind *monitor* to *target*, then let it go on; return the SHA-256. *directory* is for
    a socket. The VM must run (one that was stopped would be restored stopped) and be idle.

    Over a socket, because the QEMU of a libvirt domain may start no programs (``-sandbox spawn=deny``).

    :raises Refused: QEMU cannot save it; the VM goes on
    :raises ApplianceError: QEMU is gone
    :raises OSError: *target* cannot be written, or QEMU sends nothing; the VM goes on
    """
    path = directory / "outgoing"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.settimeout(PATIENCE)
        listener.bind(str(path))
        listener.listen(1)
        try:
            capabilities = [{"capability": "events", "state": True}]
            monitor.execute("migrate-set-capabilities", {"capabilities": capabilities})
            monitor.execute("migrate-set-parameters", {"max-bandwidth": BANDWIDTH, "downtime-limit": DOWNTIME})
            monitor.execute("migrate", {"uri": f"unix:{path}"})
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                sha256 = _receive(connection, target)
        finally:
            path.unlink()
    while (status := monitor.event("MIGRATION")["status"]) not in ("completed", "failed"):
        pass
    monitor.execute("cont", {})
    if status == "failed":
        raise Refused("QEMU cannot save the appliance", why=str(monitor.execute("query-migrate", {})))
    return sha256


def _receive(connection: socket.socket, target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    while count := connection.recv_into(buffer):
        digest.update(buffer[:count])
        target.write(buffer[:count])
    return digest.hexdigest()
