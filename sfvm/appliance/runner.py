"""Runs commands in the appliance through ``appliance/run``: own namespaces, live output, an exact exit status."""

from __future__ import annotations

import base64
import collections
import contextlib
import secrets
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfvm.appliance.channel import LogChannel
from sfvm.appliance.waiting import interruptible, quiet
from sfvm.errors import ApplianceError
from sfvm.guest import LOCKED, PROXY, Command, CommandFailed

if TYPE_CHECKING:
    import guestfs

    from sfvm.appliance.supply import Supply

CHUNK = 40 << 10
"""So much of a file, before base64, goes into one call: two of them fit into an argument, which may have 128 KiB
(execve(2))."""

TAIL = 20
"""So many last lines are in the error of a failed command."""
CAPTURED = 1 << 20
"""So many bytes of a captured output are returned: an answer of the daemon may have 4 MiB."""

ENVIRONMENT = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), PROXY)
"""Of a command with network."""


@dataclass(frozen=True)
class Relay:
    """Where the relay of a command connects to on the host, what it says there first, what the command could not
    have, and whether it has what a lock names only."""

    port: int
    token: str
    told: Sequence[str] = ()
    locked: bool = False


NOBODY = Relay(1, "nobody")
"""For commands with network in an appliance that has none."""


class Runner:
    """See the module. *died* makes the error for a VM that no longer answers, *kill* ends the VM. *supply* is what
    commands with network have it by: without one nothing answers them."""

    def __init__(
        self,
        handle: guestfs.GuestFS,
        channel: LogChannel,
        died: Callable[[str, str], ApplianceError],
        kill: Callable[[], None],
    ) -> None:
        self.handle = handle
        self.channel = channel
        self.died = died
        self.kill = kill
        self.supply: Supply | None = None

    def run(self, command: Command, *, capture: bool = False) -> str:
        """Run *command*; return its stdout when *capture*, else nothing.

        :raises CommandFailed: with the last lines of its output
        :raises ApplianceError: the VM died
        """
        with self._online(command) as relay:
            return self._run(command, relay, capture=capture)

    @contextlib.contextmanager
    def _online(self, command: Command) -> Iterator[Relay]:
        """What *command* reaches the network by, while it runs. What it could not have is in the log at the end."""
        if self.supply is None or not command.network:
            yield NOBODY
            return
        with self.supply.session(command) as (port, session):
            try:
                yield Relay(port, session.token, session.told, session.policy.locked is not None)
            except CommandFailed as failed:
                session.doubt(failed.output)
                raise
            finally:
                for line in session.told:
                    self.channel.log(f"sfvm: {line}")

    def _run(self, command: Command, relay: Relay, *, capture: bool) -> str:
        number, directory, preparation = self._job(command, relay, capture=capture)
        tail: collections.deque[str] = collections.deque(maxlen=TAIL)
        log = self.channel.log

        def remember(line: str) -> None:
            tail.append(line)
            log(line)

        def call() -> None:
            quiet(self.handle)
            self.shell(f"{preparation}exec /usr/lib/sfvm/run {directory}")

        self.channel.log = remember
        try:
            interruptible(call, self.kill)
            status = self.channel.wait(number)
        finally:
            self.channel.log = log
        if status is None:
            raise self.died("the appliance died", "while a command ran in it")
        output = self._captured(directory) if capture else ""
        if status:
            raise CommandFailed(status, [*output.splitlines(), *tail, *relay.told][-TAIL:])
        return output

    def _captured(self, directory: str) -> str:
        """What the command wrote to stdout; as base64 on its way, because libguestfs wants text to be UTF-8."""
        encoded = self.shell(f"head -c {CAPTURED} {directory}/output | base64 -w 0; rm -rf {directory}")
        return base64.b64decode(encoded).decode("utf-8", errors="replace")

    @contextlib.contextmanager
    def prepared(self, command: Command) -> Iterator[str]:
        """The directory (see ``appliance/run``) of *command* in the appliance's memory, to be run meanwhile."""
        with self._online(command) as relay:
            _, directory, preparation = self._job(command, relay)
            self.shell(preparation)
            yield directory

    def _job(self, command: Command, relay: Relay, *, capture: bool = False) -> tuple[int, str, str]:
        """Give *command* a number and a directory in the appliance, and say what puts it there: all at once, because
        every call costs a noticeable time without KVM."""
        number = secrets.randbits(62)  # so that no output can pass for the end of a command
        directory = f"/run/sfvm/{number}"
        job = {
            "number": str(number),
            "place": command.place,
            "shell": command.shell,
            "cwd": command.cwd,
            "user": command.user or "",
            "timeout": "" if command.timeout is None else f"{command.timeout:.3f}",
            "relay": f"{relay.port} {relay.token}" if command.network else "",
            "capture": "yes" if capture else "no",
            "packages": "yes" if command.packages else "no",
        }
        locked = {LOCKED: "yes"} if relay.locked and command.packages else {}
        variables = {**(ENVIRONMENT if command.network else {}), **locked, **(command.env or {})}
        environment = " ".join(shlex.quote(f"{name}={value}") for name, value in variables.items())
        settings = [f"{name}={shlex.quote(value)}\n" for name, value in job.items()]
        files = {"job": "".join([*settings, f"environment=({environment})\n"]), "script": command.script}
        chunks = [(name, piece) for name, content in files.items() for piece in _pieces(content.encode())]
        if len(chunks) > len(files):  # too large for one call
            self.shell(f"mkdir -p {directory}")
            for name, piece in chunks:
                self.shell(_append(f"{directory}/{name}", piece))
            return number, directory, ""
        return number, directory, f"mkdir -p {directory}\n" + "".join(_append(f"{directory}/{n}", p) for n, p in chunks)

    def shell(self, script: str) -> str:
        """Run a short *script* of ours as it is, with no namespaces around it; return its output."""
        try:
            return str(self.handle.debug("sh", [script]))
        except RuntimeError as error:
            raise self.died("the appliance died or refused a command", str(error)) from error


def _pieces(content: bytes) -> list[str]:
    """*content* as pieces of base64, each for one argument of a program; at least one."""
    return [
        base64.b64encode(content[start : start + CHUNK]).decode() for start in range(0, max(len(content), 1), CHUNK)
    ]


def _append(path: str, piece: str) -> str:
    return f"echo {piece} | base64 -d >>{path}\n"
