"""A terminal of the user's, joined to one inside the guest over the port ``org.sfvm.terminal``."""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

from sfvm.appliance.runner import Runner
from sfvm.guest import Command, CommandFailed

SHELL = "if [ -x /bin/bash ]; then exec /bin/bash -i; else exec /bin/sh -i; fi"


def attach(runner: Runner, path: Path, command: str | None, kill: Callable[[], None]) -> int:
    """Run *command* (None: an interactive shell) in the guest and return its exit status. On a terminal its input and
    output are the user's; otherwise its output goes to stdout, it has no input, and without a command what
    stdin says is run. *kill* ends the VM: what happens
    when the user interrupts."""
    if not sys.stdin.isatty():
        return _plain(runner, sys.stdin.read() if command is None else command)
    size = os.get_terminal_size(sys.stdin.fileno())  # that of the terminal, whatever COLUMNS says
    size = size if size.lines and size.columns else os.terminal_size((80, 24))
    environment = {"TERM": os.environ.get("TERM", "dumb"), "LINES": str(size.lines), "COLUMNS": str(size.columns)}
    job = Command(command or SHELL, shell="/bin/sh", env=environment, network=True)
    with runner.prepared(job) as directory, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        done = threading.Event()
        wake_read, wake_write = os.pipe()

        def work() -> None:
            try:
                runner.shell(f"/usr/lib/sfvm/terminal {directory} {size.lines} {size.columns}; true")
            finally:
                done.set()
                os.write(wake_write, b".")

        worker = threading.Thread(target=work, name="terminal")
        worker.start()
        try:
            with _raw(sys.stdin.fileno()):
                _pump(connection, wake_read, done)
        finally:
            if not done.is_set():
                kill()
            worker.join()
            os.close(wake_read)
            os.close(wake_write)
        return int(runner.shell(f"cat {directory}/status 2>/dev/null || echo 137"))


def _plain(runner: Runner, command: str) -> int:
    log, runner.channel.log = runner.channel.log, lambda line: print(line, flush=True)
    try:
        runner.run(Command(command, shell="/bin/sh", network=True))
    except CommandFailed as error:
        return error.status
    finally:
        runner.channel.log = log
    return 0


@contextlib.contextmanager
def _raw(terminal: int) -> Iterator[None]:
    if not os.isatty(terminal):
        yield
        return
    before = termios.tcgetattr(terminal)
    tty.setraw(terminal, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _pump(connection: socket.socket, wake: int, done: threading.Event) -> None:
    """Copy both ways until the command has ended and all its output is here."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select(timeout=0.2 if done.is_set() else None)}
            if connection in ready:
                data = connection.recv(64 << 10)
                if not data:
                    return
                os.write(sys.stdout.fileno(), data)
            elif done.is_set():
                return
            if sys.stdin.fileno() in ready:
                data = os.read(sys.stdin.fileno(), 4096)
                if data:
                    connection.sendall(data)
                else:
                    selector.unregister(sys.stdin.fileno())
                    connection.sendall(b"\x04")  # end of file, as a terminal says it
            if wake in ready:
                os.read(wake, 1)
