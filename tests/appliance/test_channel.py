"""The log channel against a VM that is a socket of ours: what a hostile guest may write to it."""

import queue
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.appliance.channel import LogChannel
from sfvm.appliance.handshake import Booted, Restored
from sfvm.appliance.warm import State


class Machine:
    """A channel, its VM's end, and what came of it."""

    def __init__(self, path: Path) -> None:
        self.saves: list[str] = []
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.channel = LogChannel(path, self.lines.put, Booted(lambda: self.saves.append("saved")))
        self.end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.end.connect(str(path))
        self.end.settimeout(60)

    def say(self, text: str) -> None:
        self.end.sendall(text.encode())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "log")
    yield made
    made.end.close()
    made.channel.close()


def test_init_is_told_to_go_on_once_it_is_saved(machine: Machine) -> None:
    machine.say("\x1eready\n")
    assert machine.end.recv(1000).endswith(b" booted\n")
    assert machine.saves == ["saved"]


def test_a_guest_that_says_that_it_is_ready_is_not_saved(machine: Machine) -> None:
    """What is restored later would be that guest's VM."""
    machine.say("\x1eready\n")
    machine.end.recv(1000)
    machine.say("\x1eready\n\x1e1 0\n")
    assert machine.channel.wait(1) == 0
    assert machine.saves == ["saved"]


@pytest.mark.parametrize("text", ["\x1e\n", "\x1enonsense\n", "\x1e1 2 3\n", "\x1e1 \u00b2\n", "\x1e-\xff x\n"])
def test_what_only_begins_like_an_end_is_output(machine: Machine, text: str) -> None:
    machine.say(text + "\n\x1e7 3\n")
    assert machine.channel.wait(7) == 3
    assert machine.lines.get(timeout=60) == text[:-1]


def test_a_state_that_is_gone_ends_the_launch_at_once(tmp_path: Path) -> None:
    """gc of another process has taken it, and QEMU may or may not have read it by then."""
    refused: list[str] = []
    sent: list[bytes] = []
    Restored(State(tmp_path / "gone", 1, "0" * 64), refused.append).opened(sent.append)
    assert (len(refused), sent) == (1, [])
