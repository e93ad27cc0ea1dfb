"""What commands in a running appliance have of the network: the proxy on the host, and packages unpacked by the host.

The proxy starts with the first command that has network, the exchange with the first package manager. Unpacked packages
are no more than an optimisation: where they cannot be had, one notice says so, and the guest unpacks by itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from sfvm.appliance.hypervisor import Hypervisor
from sfvm.downloads.access import Access
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.proxy import Proxy
from sfvm.downloads.session import Session
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Notice
from sfvm.guest import Command

SERIAL = "sfvm-exchange"


class Supply:
    """The supply of one appliance. *access* is what it may have of the network now; the exchange of unpacked packages
    is the file *exchange* (None: the VM is fast enough itself). *shell* runs a script in the VM and returns its
    output."""

    def __init__(
        self,
        access: Access,
        exchange: Path | None,
        hypervisor: Hypervisor,
        shell: Callable[[str], str],
        listener: Listener,
    ) -> None:
        self.access = access
        self.exchange_path = exchange
        self.hypervisor = hypervisor
        self.shell = shell
        self.listener = listener
        self._exchange: Exchange | None = None
        self._proxy: Proxy | None = None

    @contextlib.contextmanager
    def session(self, command: Command) -> Iterator[tuple[int, Session]]:
        """The port of the proxy on the host, and a session of *command* there.

        :raises ApplianceError: the proxy cannot be started
        """
        if self._proxy is None:
            try:
                self._proxy = Proxy()
            except OSError as error:
                raise ApplianceError("the download proxy cannot be started", why=str(error)) from error
        if command.packages and self.exchange_path is not None:
            device, self.exchange_path = self._attach(self.exchange_path), None
            self._proxy.unpack(self._exchange)
            self.shell(f"echo {device} >/run/sfvm/supply")
        hosts = command.network if isinstance(command.network, tuple) else None
        with self._proxy.session(self.access, hosts) as session:
            yield self._proxy.port, session

    def _attach(self, path: Path) -> str:
        """Give the VM the exchange as a disk; return its device there, or ``none``."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._exchange = Exchange(path)
            self.hypervisor.attach(path, SERIAL)
        except (OSError, ApplianceError) as error:
            self.listener(Notice(f"packages are unpacked by the helper VM itself ({error})"))
            self._close_exchange()
            return "none"
        # The kernel has been told of a new disk and looks at it in its own time.
        return (
            self.shell(
                f"for attempt in $(seq 100); do "
                f"found=$(grep -ls {SERIAL} /sys/block/sd*/device/vpd_pg80) && break; sleep 0.1; done; "
                f'disk=${{found#/sys/block/}}; echo "${{disk:+/dev/}}${{disk%%/*}}"'
            ).strip()
            or "none"
        )

    def close(self) -> None:
        """End it. The VM may still run: its commands find nobody then."""
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None
        self._close_exchange()

    def _close_exchange(self) -> None:
        if self._exchange is not None:
            with contextlib.suppress(OSError):
                self._exchange.close()
            self._exchange = None
