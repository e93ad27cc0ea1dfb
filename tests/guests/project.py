"""A user's directory with specs and a repository of its own, and ways to run sfvm in it as users do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm.repository import Repository

SPECS = Path(__file__).parent / "specs"
DAEMONS = ("libvirtd", "virtqemud", "virtlogd", "dbus-daemon")
"""What a libvirt session starts, keeps for a while, and ends by itself."""

AGES = 24 * 3600.0
"""Seconds: longer than any test run."""


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    status: int
    stdout: str
    stderr: str
    events: tuple[dict[str, Any], ...]

    def all(self, kind: str) -> list[dict[str, Any]]:
        """The events of type *kind*."""
        return [event for event in self.events if event["event"] == kind]

    def nodes(self, kind: str) -> list[str]:
        """The nodes of the events of type *kind*."""
        return [event["node"] for event in self.all(kind)]


def eventually(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """What *condition* returns once it is true, or at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def running(pid: int) -> bool:
    """Whether the process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Running:
    """A command that runs, in a session of its own as a terminal would give it."""

    process: subprocess.Popen[str]
    record: Path

    def events(self) -> tuple[dict[str, Any], ...]:
        """Those so far; a line that is not complete yet is left out."""
        if not self.record.exists():
            return ()
        *lines, _rest = self.record.read_text(encoding="utf-8").split("\n")
        return tuple(json.loads(line) for line in lines)

    def until(self, kind: str, seconds: float = 120, **fields: Any) -> dict[str, Any]:
        """Wait for an event of type *kind* with *fields*."""
        ended = False

        def look() -> dict[str, Any] | bool:
            nonlocal ended
            for event in self.events():
                if event["event"] == kind and all(event[name] == value for name, value in fields.items()):
                    return event
            if ended:
                return True
            ended = self.process.poll() is not None  # and look once more
            return False

        found = eventually(look, seconds)
        assert isinstance(found, dict), f"no {kind} {fields}: {self.events()[-3:]}"
        return found

    def interrupt(self, number: int = signal.SIGINT) -> None:
        """Send a signal to the whole group, as Ctrl-C does."""
        os.killpg(self.process.pid, number)

    def end(self, timeout: float = 300) -> Done:
        """Wait for its end."""
        stdout, stderr = self.process.communicate(timeout=timeout)
        return Done(self.process.returncode, stdout, stderr, self.events())


@dataclass
class Project:
    """*home* holds ``specs`` and ``repository``; *temporary* is the only place for temporary files, so that whatever
    stays there was left behind. The appliance comes from the user's own cache."""

    home: Path
    temporary: Path
    killed: bool = False
    """Set by :meth:`kills`."""

    @property
    def specs(self) -> Path:
        return self.home / "specs"

    @property
    def repository(self) -> Repository:
        return Repository(self.home / "repository")

    @property
    def environment(self) -> dict[str, str]:
        own = {f"XDG_{kind}_HOME": str(self.home / kind.lower()) for kind in ("CONFIG", "DATA", "STATE")}
        kept = {name: value for name, value in os.environ.items() if name not in ("SFVM_HOME", "COLUMNS")}
        where = {"SFVM_HOME": str(self.home / "repository"), "TMPDIR": str(self.temporary), "SFVM_MEMORY": "768"}
        return {**kept, **own, **where, "PYTHONDONTWRITEBYTECODE": "1"}

    def edit(self, name: str, *replacements: tuple[str, str]) -> None:
        """Replace text in the spec *name*, which must have it once."""
        path = self.specs / f"{name}.xml"
        text = path.read_text(encoding="utf-8")
        for old, new in replacements:
            assert text.count(old) == 1, (name, old)
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def write(self, name: str, parent: str, *steps: str) -> None:
        """A spec of its own."""
        head = f'<filesystem xmlns="urn:sfvm:1" name="{name}" parent="{parent}">'
        lines = [head, "<steps>", *steps, "</steps>", "</filesystem>", ""]
        (self.specs / f"{name}.xml").write_text("\n".join(lines), encoding="utf-8")

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None, stdin: str = "") -> Running:
        """Start a command; *stdin* is what it may read."""
        handle, name = tempfile.mkstemp(prefix="events-", dir=self.home)
        os.close(handle)
        record = Path(name)
        words = [sys.executable, "-m", "sfvm.cli", *arguments]
        if arguments[0] in ("build", "bundle"):
            words += ["--events", str(record)]
        with tempfile.TemporaryFile("w+", dir=self.home) as given:
            given.write(stdin)
            given.seek(0)
            process = subprocess.Popen(
                words,
                cwd=self.home,
                env={**self.environment, **(environment or {})},
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        return Running(process, record)

    def sfvm(self, *arguments: str, status: int = 0, timeout: float = 300, **more: Any) -> Done:
        """Run a command to its end, which must have *status*; never a traceback, never a bug of ours."""
        running = self.start(*arguments, **more)
        try:
            done = running.end(timeout)
        except BaseException:
            running.process.kill()
            running.process.wait()
            raise
        self.check(done)
        assert done.status == status, f"{arguments}: {done.status}\n{done.stdout}\n{done.stderr}"
        return done

    def check(self, done: Done) -> None:
        """No traceback and no report of a bug in what *done* has told."""
        crashes = [path.read_text(encoding="utf-8") for path in (self.home / "state").glob("sfvm/crash-*")]
        assert not crashes, crashes[0]
        assert "Traceback" not in done.stdout + done.stderr, done.stderr

    def cat(self, node: str, path: str) -> str:
        """The content of a file of a built node; empty when there is none. Read by other tools than sfvm's."""
        return self._debugfs(node, f"cat {path}")

    def names(self, node: str, path: str) -> set[str]:
        """What is in a directory of a built node, likewise."""
        listed = self._debugfs(node, f"ls -p {path}")  # /INODE/MODE/UID/GID/NAME/SIZE/
        found = {line.split("/")[5] for line in listed.splitlines() if line.startswith("/")}
        return found - {".", ".."}

    def owned(self, node: str, path: str) -> tuple[int, int, int]:
        """The mode, user and group of a file of a built node, likewise."""
        directory, _, name = path.rpartition("/")
        for line in self._debugfs(node, f"ls -p {directory}").splitlines():
            if line.startswith("/") and line.split("/")[5] == name:
                mode, user, group = line.split("/")[2:5]
                return int(mode, 8) & 0o7777, int(user), int(group)
        raise FileNotFoundError(path)

    def _debugfs(self, node: str, request: str) -> str:
        raw = self.home / "cat.raw"
        overlay = self.repository.overlay(self.repository.names()[node])
        subprocess.run(["qemu-img", "convert", "-O", "raw", overlay, raw], check=True)
        try:
            debugfs = shutil.which("debugfs", path="/usr/sbin:/sbin") or "debugfs"
            return subprocess.run([debugfs, "-R", request, raw], capture_output=True, text=True, check=True).stdout
        finally:
            raw.unlink()

    def sound(self) -> None:
        """The repository has no damage."""
        problems = [problem for problem in self.repository.verify() if problem.serious]
        assert not problems, [str(problem) for problem in problems]

    def processes(self) -> dict[int, str]:
        """Every process of ours that lives: by a TMPDIR of ours in its environment, or our directory on its command
        line."""
        marks = (f"TMPDIR={self.temporary}".encode(), os.fsencode(self.home) + b"/")
        found: dict[int, str] = {}
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                number, command = int(entry.name), (entry / "cmdline").read_bytes()
                mine = marks[0] in (entry / "environ").read_bytes() or marks[1] in command
                name = (entry / "comm").read_text(encoding="utf-8").strip()
                if mine and name not in DAEMONS and number != os.getpid() and running(number):
                    found[number] = command.replace(b"\0", b" ").decode(errors="replace")[:200]
        return found

    def emulators(self) -> list[int]:
        """Our QEMU processes."""
        return [number for number, command in self.processes().items() if "qemu-system" in command.split(" ")[0]]

    def kills(self) -> None:
        """The test kills sfvm from now on: nobody is left to remove libguestfs's own sockets in /tmp, where tests
        beside this one look too; a launch a minute later does."""
        self.killed = True
        _marker(self.home).touch()
        os.utime(_marker(self.home), (time.time() + AGES, time.time() + AGES))

    def leftovers(self) -> list[str]:
        """Processes, sockets and files that are there though nothing of ours should run."""
        eventually(lambda: not self.processes())
        files = [str(path) for path in self.temporary.iterdir()]
        return [*(f"{number}: {command}" for number, command in self.processes().items()), *files]


@contextlib.contextmanager
def project(home: Path, seed: Path | None = None) -> Iterator[Project]:
    """A project in the directory *home* with the specs of ``tests/guests/specs`` and a copy of the repository *seed*;
    at the end nothing may be left behind."""
    # Short, for the sockets in it; libguestfs puts its own into /tmp when the user is root.
    with tempfile.TemporaryDirectory(prefix="sfvm-t-", dir="/tmp") as temporary:
        made = Project(home, Path(temporary))
        shutil.copytree(SPECS, made.specs)
        if seed is not None:
            shutil.copytree(seed, made.home / "repository")
        sockets = set(Path("/tmp").glob("libguestfs*"))
        try:
            yield made
            left = made.leftovers()
            if not made.killed:
                left += unused(set(Path("/tmp").glob("libguestfs*")) - sockets, shared(home))
            assert not left, f"left behind: {left}"
        finally:
            for number in made.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            if made.killed:
                _marker(home).touch()


def shared(path: Path) -> Path:
    """The directory of the test run that *path* is in. The processes of pytest-xdist have one each, within it."""
    worker = next((parent for parent in path.parents if parent.name.startswith("popen-")), None)
    return path.parent if worker is None else worker.parent


def _marker(home: Path) -> Path:
    """A file whose time of modification says until when a project that kills did: far ahead while it goes on."""
    return shared(home) / f"kills-{os.getpid()}-{home.parent.name}"


def unused(directories: set[Path], run: Path) -> list[str]:
    """Those that stay though no process uses them. Tests beside this one, in the directory *run*, have their own, and
    remove them in time, unless they kill: what is older than the last kill may be of the killed."""

    def orphaned(path: Path) -> bool:
        made = path.stat().st_mtime
        return any(made <= marker.stat().st_mtime for marker in run.glob("kills-*"))

    found: list[str] = []

    def clean() -> bool:
        found.clear()
        for path in directories:
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                if not orphaned(path) and not _used(path):
                    found.append(str(path))
        return not found

    eventually(clean)
    return found  # and no second look: then another's may be in its last moment


def _used(directory: Path) -> bool:
    """Whether any process names *directory* on its command line (another test's, perhaps)."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(directory) in path.read_bytes():
                return True
    return False
