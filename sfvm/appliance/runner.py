"""Runs commands in the appliance through ``appliance/run``: own namespaces, live output, an exact exit status."""

from __future__ import annotations

import base64
import collections
import secrets
import shlex
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sfvm.appliance.channel import LogChannel
from sfvm.appliance.waiting import interruptible, quiet
from sfvm.errors import ApplianceError
from sfvm.guest import Command, CommandFailed

if TYPE_CHECKING:
    import guestfs

CHUNK = 40 << 10
"""So much of a file, before base64, goes into one call: two of them fit into an argument, which may have 128 KiB
(execve(2))."""

TAIL = 20
"""So many last lines are in the error of a failed command."""
CAPTURED = 1 << 20
"""So many bytes of a captured output are returned: an answer of the daemon may have 4 MiB."""


class Runner:
    """See the module. *died* makes the error for a VM that no longer answers, *kill* ends the VM; *supply* gives
    variables for the environment of package managers."""

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
        self.supply: Callable[[], Mapping[str, str]] = dict

    def run(self, command: Command, *, capture: bool = False) -> str:
        """Run *command*; return its stdout when *capture*, else nothing.

        :raises CommandFailed: with the last lines of its output
        :raises ApplianceError: the VM died
        """
        number, directory, preparation = self._job(command, capture=capture)
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
            raise CommandFailed(status, [*output.splitlines(), *tail][-TAIL:])
        return output

    def _captured(self, directory: str) -> str:
        """What the command wrote to stdout; as base64 on its way, because libguestfs wants text to be UTF-8."""
        encoded = self.shell(f"head -c {CAPTURED} {directory}/output | base64 -w 0; rm -rf {directory}")
        return base64.b64decode(encoded).decode("utf-8", errors="replace")

    def prepare(self, command: Command) -> str:
        """Put *command* into the appliance's memory; return its directory there (see ``appliance/run``)."""
        _, directory, preparation = self._job(command)
        self.shell(preparation)
        return directory

    def _job(self, command: Command, *, capture: bool = False) -> tuple[int, str, str]:
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
            "network": "yes" if command.online else "no",
            "capture": "yes" if capture else "no",
            "packages": "yes" if command.packages else "no",
        }
        variables = {**(self.supply() if command.packages and command.online else {}), **(command.env or {})}
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
