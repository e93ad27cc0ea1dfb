"""What package managers in a running appliance are given: the host's download cache, and packages unpacked by it.

Started when the first package manager runs. It is no more than an optimisation: where it cannot be had, one notice says
so, and everything is fetched and unpacked by the guest itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from sfvm.appliance.hypervisor import Hypervisor
from sfvm.downloads.exchange import Exchange
from sfvm.downloads.proxy import Proxy
from sfvm.downloads.store import Store
from sfvm.downloads.upstream import HOST
from sfvm.errors import ApplianceError
from sfvm.events import Listener, Notice

SERIAL = "sfvm-exchange"


class Supply:
    """The supply of one appliance. Downloads are kept in *directory*; the exchange of unpacked packages is the file
    *exchange* (None: the VM is fast enough itself). *shell* runs a script in the VM and returns its output."""

    def __init__(
        self,
        directory: Path,
        exchange: Path | None,
        hypervisor: Hypervisor,
        shell: Callable[[str], str],
        listener: Listener,
    ) -> None:
        self.directory = directory
        self.exchange_path = exchange
        self.hypervisor = hypervisor
        self.shell = shell
        self.listener = listener
        self._environment: Mapping[str, str] | None = None
        self._exchange: Exchange | None = None
        self._proxy: Proxy | None = None

    def __call__(self) -> Mapping[str, str]:
        """The environment of a package manager; starts the supply the first time."""
        if self._environment is None:
            self._environment = {}
            try:
                self._environment = self._start()
            except OSError as error:
                self._without(f"{error.filename or ''} {error.strerror or error}".strip())
        return self._environment

    def _without(self, why: str) -> None:
        self.listener(Notice(f"packages are downloaded without the host's download cache ({why})"))
        self.close()

    def _start(self) -> Mapping[str, str]:
        device = "none"
        if self.exchange_path is not None:
            device = self._attach(self.exchange_path)
        self._proxy = proxy = Proxy(Store(self.directory), self._exchange)
        answer = self.shell(
            f"exec 2>/dev/null; echo {proxy.port} {proxy.credentials} {device} >/run/sfvm/supply; "
            f"bash -c 'exec 3<>/dev/tcp/{HOST}/{proxy.port}' && echo yes || echo no"
        )
        if answer.strip() != "yes":
            self._without("the helper VM does not reach it")
            return {}
        return {"http_proxy": proxy.url}

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
        """End it. The VM may still run: its package managers find nobody then."""
        if self._proxy is not None:
            self._proxy.close()
            self._proxy = None
        self._close_exchange()

    def _close_exchange(self) -> None:
        if self._exchange is not None:
            with contextlib.suppress(OSError):
                self._exchange.close()
            self._exchange = None
