"""``sfvm shell`` and ``sfvm run``: a terminal of the user's joined to one in the guest."""

import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from fcntl import ioctl
from pathlib import Path

import pytest

from sfvm.appliance.image import Image

pytestmark = pytest.mark.vm

PROGRAM = """
import subprocess, sys
from pathlib import Path
from sfvm.appliance.image import ensure
from sfvm.appliance.machine import Drive, Shape, start
from sfvm.appliance.profile import TCG
from sfvm.events import ignore

image = ensure(Path(sys.argv[1]), ignore)
disk = Path(sys.argv[2])
subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1G"], check=True)
with start(image, [Drive(disk)], Shape(memory=768), "direct", TCG, log=print) as appliance:
    appliance.format("ext4")
    appliance.mount()
    appliance.run("mkdir -p /sysroot/bin; cp $(command -v busybox) /sysroot/bin/")
    appliance.run("chroot /sysroot /bin/busybox --install -s /bin")
    print("ready", flush=True)
    for command in sys.argv[3:]:
        print("status", appliance.interactive(command or None), flush=True)
    print("left", appliance.run("ps ax | grep -c '[s]leep 1000' || true").strip(), flush=True)
"""


class Session:
    """A program that runs on a pseudo terminal of ours."""

    def __init__(self, image: Image, disk: Path, *commands: str) -> None:
        self.terminal, theirs = pty.openpty()
        ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        arguments = [sys.executable, "-c", PROGRAM, str(image.directory.parent.parent), str(disk), *commands]
        self.process = subprocess.Popen(
            arguments,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "vt"},
        )
        os.close(theirs)
        self.output = b""

    def expect(self, text: bytes, seconds: float = 90) -> None:
        """Read until *text* was written; what comes up to it is forgotten."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            assert time.monotonic() < deadline, self.output
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.output += os.read(self.terminal, 4096)
                except OSError:  # EIO: the program has ended
                    raise AssertionError(self.output) from None
        self.output = self.output.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self.terminal, text)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    return tmp_path / "disk.qcow2"


def test_shells_and_commands_on_a_terminal(image: Image, disk: Path) -> None:
    session = Session(image, disk, "", "tty; echo out; exit 3", "")
    try:
        session.expect(b"ready")
        session.expect(b"# ")
        session.type(b"echo $((6 * 7)) typed; stty size; echo $TERM; echo file >/from-shell\n")
        session.expect(b"42 typed")
        session.expect(b"33 101")
        session.expect(b"vt")
        session.type(b"sh -c 'echo go''ing; exec sleep 1000'\n")
        session.expect(b"going")
        session.type(b"\x03")
        session.type(b"echo interr''upted\n")
        session.expect(b"interrupted")
        session.type(b"sleep 1000 &\nexit 7\n")
        session.expect(b"status 7")
        session.expect(b"/dev/pts/")
        session.expect(b"out")
        session.expect(b"status 3")
        session.expect(b"# ")
        session.type(b"cat /from-shell; exit\n")
        session.expect(b"\nfile")
        session.expect(b"status 0")
        session.expect(b"left 0")
        assert session.process.wait(120) == 0
    finally:
        session.process.terminate()
        session.process.wait(120)
        os.close(session.terminal)


def test_a_command_without_a_terminal(image: Image, disk: Path) -> None:
    arguments = [str(image.directory.parent.parent), str(disk), "echo out; echo err >&2; exit 5"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.stdout.split("\n") == ["ready", "out", "err", "status 5", "left 0", ""]
    assert done.returncode == 0
