"""The two ways to start the appliance, behind one interface: QEMU directly, or a libvirt connection.

libguestfs starts it in both; what it has no call for (live snapshots, killing a call from another thread) is done here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any, Protocol

from lxml import etree
from lxml.builder import ElementMaker

from sfvm.appliance.qmp import Monitor
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Notice

SESSION = "qemu:///session"
AGAIN = 0.1
"""Seconds between two looks for a QEMU that is to be killed."""
ADDED = 200
"""The SCSI target of a disk that is added to a running VM: libguestfs counts those of its own from 0."""


class Hypervisor(Protocol):
    """*name* is what users read: ``direct`` or the connection URI."""

    name: str
    backend: str

    def started(self, handle: Any) -> str:
        """The launch is done; return QEMU's command line or the domain's description."""

    def snapshot(self, overlay: Path) -> None:
        """Switch the first drive to a new *overlay* over what it has been."""

    def attach(self, disk: Path, serial: str) -> None:
        """Add a read-only *disk* in raw format to the running VM, where its serial number tells it from others.

        :raises ApplianceError: the hypervisor refuses
        """

    def kill(self) -> None:
        """End the VM at once; from any thread; harmless when it is gone."""

    def close(self) -> None: ...


class Direct:
    """QEMU as a child process whose monitor listens at *socket*."""

    name = "direct"
    backend = "direct"

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.pid: int | None = None
        self.monitor: Monitor | None = None

    def started(self, handle: Any) -> str:
        self.pid = handle.get_pid()
        self.monitor = Monitor(self.socket)
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")

    def snapshot(self, overlay: Path) -> None:
        assert self.monitor is not None  # started
        self.monitor.execute(
            "blockdev-snapshot-sync", {"device": "hd0", "snapshot-file": str(overlay), "format": "qcow2"}
        )

    def attach(self, disk: Path, serial: str) -> None:
        assert self.monitor is not None  # started
        file = {"driver": "file", "filename": str(disk)}
        self.monitor.execute("blockdev-add", {"node-name": serial, "driver": "raw", "read-only": True, "file": file})
        device = {"driver": "scsi-hd", "drive": serial, "bus": "scsi.0", "scsi-id": ADDED, "serial": serial}
        self.monitor.execute("device_add", {**device, "id": serial})

    def kill(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        if self.monitor is not None:
            self.monitor.close()
        self.pid = self.monitor = None


class Libvirt:
    """A transient domain of a libvirt connection; libvirt ends it when our connection does."""

    def __init__(self, uri: str, mark: Path) -> None:
        self.name = uri
        self.backend = f"libvirt:{uri}"
        self.mark = str(mark)
        self._domain: Any = None
        self._connection: Any = None

    def started(self, handle: Any) -> str:
        import libvirt

        self._connection = connect(self.name)
        for domain in self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            try:
                description = str(domain.XMLDesc())
            except libvirt.libvirtError:  # another appliance, which has just ended
                continue
            if self.mark in description:
                self._domain = domain
                return description
        raise ApplianceError("the appliance's domain cannot be found", why=f"{self.name} does not list it")

    def snapshot(self, overlay: Path) -> None:
        import libvirt

        xml = ElementMaker()
        targets = [disk.get("dev") for disk in etree.fromstring(self._domain.XMLDesc()).iterfind("devices/disk/target")]
        others = [xml.disk(name=target, snapshot="no") for target in targets if target != "sda"]
        first = xml.disk(xml.driver(type="qcow2"), xml.source(file=str(overlay)), name="sda", snapshot="external")
        request = etree.tostring(xml.domainsnapshot(xml.disks(first, *others)), encoding="unicode")
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        try:
            self._domain.snapshotCreateXML(request, flags)
        except libvirt.libvirtError as error:
            raise ApplianceError("libvirt refused a live snapshot", why=str(error)) from error

    def attach(self, disk: Path, serial: str) -> None:
        import libvirt

        xml = ElementMaker()
        request = xml.disk(
            xml.driver(name="qemu", type="raw"), xml.source(file=str(disk)), xml.target(dev="sdz", bus="scsi"),
            xml.readonly(), xml.serial(serial),
            xml.address(type="drive", controller="0", bus="0", target=str(ADDED), unit="0"), type="file", device="disk",
        )  # fmt: skip
        try:
            self._domain.attachDevice(etree.tostring(request, encoding="unicode"))
        except libvirt.libvirtError as error:
            raise ApplianceError("libvirt refused another disk", why=str(error)) from error

    def kill(self) -> None:
        import libvirt

        if self._domain is not None:
            with contextlib.suppress(libvirt.libvirtError):
                self._domain.destroy()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._domain = self._connection = None


def kill_until(over: threading.Event, directory: Path) -> None:
    """Kill every QEMU whose command line names *directory*, until *over* is set: one that is just being started has no
    command line yet."""
    mark = str(directory).encode()
    while True:
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended, or is not ours
                words = entry.read_bytes()
                if mark in words and b"-nodefaults" in words:
                    os.kill(int(entry.parent.name), signal.SIGKILL)
        if over.wait(AGAIN):
            return


def connect(uri: str) -> Any:
    """An open libvirt connection; libvirt's own error messages stay off stderr.

    :raises ApplianceError: nothing answers at *uri*
    """
    import libvirt

    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise ApplianceError(
            f"no libvirt daemon answers at {uri}",
            why=str(error),
            hint="start it, name another with --connection, or use --connection direct",
        ) from error


def choose(connection: str, listener: Listener) -> str:
    """What *connection* comes down to: ``direct`` or a URI. ``auto`` is the user's libvirt session when its daemon is
    installed and answers; root has no session of its own, so for root it is ``direct``.

    :raises ApplianceError: an explicit URI that does not answer
    """
    if connection == "direct":
        return connection
    if connection != "auto":
        connect(connection).close()
        return connection
    if os.geteuid() == 0 or not shutil.which("libvirtd", path=os.environ.get("PATH", "") + ":/usr/sbin"):
        return "direct"
    try:
        connect(SESSION).close()
    except ApplianceError as error:
        listener(Notice(f"{SESSION} does not answer, starting QEMU directly ({error.why})"))
        return "direct"
    return SESSION


def version(connection: str) -> list[str]:
    """The versions of what lays out the machine of a *connection*: libguestfs, and libvirt."""
    import guestfs

    told = guestfs.GuestFS(python_return_dict=True).version()
    found = [".".join(str(told[part]) for part in ("major", "minor", "release")) + str(told["extra"])]
    if connection != "direct":
        import libvirt

        found.append(str(libvirt.getVersion()))
    return found
