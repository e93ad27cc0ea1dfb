"""When indexes are fetched again: the scripts, run by a shell in a directory of the test's own."""

import os
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from sfvm import apt
from sfvm.guest import KEPT


class Guest:
    """Files of a guest, and a dpkg that knows its architectures."""

    def __init__(self, home: Path) -> None:
        self.home = home
        for name in ("etc/apt/apt.conf.d", "bin", "var/lib/apt/lists"):
            (home / name).mkdir(parents=True)
        self.sources = home / "etc/apt/sources.list"
        self.sources.write_text("deb http://a.invalid main\n")
        self.tool(
            "dpkg",
            'case $1 in --print-architecture) echo amd64 ;; *) [ ! -e "$0.foreign" ] || cat "$0.foreign" ;; esac',
        )
        self.tool("chroot", 'shift; exec "$@"')

    def tool(self, name: str, script: str) -> None:
        path = self.home / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def run(self, script: str) -> str:
        for absolute in (KEPT, "/etc/apt", "/usr/share/keyrings"):
            script = script.replace(absolute, f"{self.home}{absolute}")
        environment = {**os.environ, "PATH": f"{self.home}/bin:{os.environ['PATH']}"}
        done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, check=True, env=environment)
        assert done.stderr == ""
        return done.stdout

    def fetches(self) -> bool:
        """Whether indexes are fetched now; then there are some."""
        script = apt.refresh(f"echo fetched; echo index >{apt.LISTS}/a_index")
        fetched = self.run(script) == "fetched\n"
        assert (self.home / apt.LISTS.lstrip("/") / "a_index").read_text() == "index\n"
        return fetched


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_indexes_are_fetched_once(guest: Guest) -> None:
    assert guest.fetches()
    assert not guest.fetches()


def test_another_source_means_other_indexes(guest: Guest) -> None:
    guest.fetches()
    changes = {
        "a source": lambda: guest.sources.write_text("deb http://b.invalid main\n"),
        "a setting": lambda: (guest.home / "etc/apt/apt.conf.d/50-mine").write_text("APT::x 1;\n"),
        "a key": lambda: (guest.home / "etc/apt/mine.gpg").write_bytes(b"key"),
        "an architecture": lambda: (guest.home / "bin/dpkg.foreign").write_text("i386\n"),
    }
    for what, change in changes.items():
        change()
        assert guest.fetches(), what
        assert not guest.fetches(), what


def test_old_indexes_are_fetched_again(guest: Guest) -> None:
    guest.fetches()
    hours_ago = time.time() - apt.MINUTES * 60 - 3600
    os.utime(guest.home / apt.STAMP.lstrip("/"), (hours_ago, hours_ago))
    assert guest.fetches()


def test_a_failed_update_leaves_nothing_to_rely_on(guest: Guest) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        guest.run(apt.refresh("false"))
    assert guest.fetches()


def test_the_indexes_of_the_base_serve_the_first_step(guest: Guest) -> None:
    (guest.home / "var/lib/apt/lists/a_index").write_text("index\n")
    (guest.home / "etc/apt/apt.conf.d/00mmdebstrap").write_text("only there while mmdebstrap runs\n")
    guest.run(apt.keep(shlex.quote(str(guest.home))))
    (guest.home / "etc/apt/apt.conf.d/00mmdebstrap").unlink()
    assert not guest.fetches()


def test_a_base_without_indexes_is_no_error(guest: Guest) -> None:
    script = f"{{ {apt.keep(shlex.quote(str(guest.home)))}; }} 2>/dev/null"
    guest.run(script)
    assert guest.fetches()
