"""Packages of the Debian that the tests run on: what stand-in mirrors of other distributions are made of.

Found and fetched by the ordinary apt client, as whoever runs the tests; nothing is installed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.peers.tools import tool

USELESS = ("./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info", "./usr/share/lintian")
MERGED = r"flags=rh;s,^\./\(bin\|sbin\|lib\|lib64\)\(/\|$\),./usr/\1\2,"
"""For tar: what is in /bin, /sbin and /lib is in /usr; the texts of symlinks stay."""


@dataclass(frozen=True)
class Closure:
    """Packages that can be installed together, and what each of them needs of the others."""

    needs: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, seeds: Iterable[str], without: str = r"$^") -> Closure:
        """*seeds* and what they depend on; names that match *without* are left out, and what only these need."""
        words = ("-o", "Dir::State::status=/dev/null", "-o", "APT::Install-Recommends=0", "-o", "Debug::NoLocking=1")
        said = _run(tool("apt-get"), "-q", "-s", *words, "install", *seeds)
        chosen = [name for name in re.findall(r"^Inst (\S+)", said, re.MULTILINE) if not re.fullmatch(without, name)]
        options = (
            "--no-recommends",
            "--no-suggests",
            "--no-conflicts",
            "--no-breaks",
            "--no-replaces",
            "--no-enhances",
        )
        needs: dict[str, set[str]] = {name: set() for name in chosen}
        at = ""
        for line in _run("apt-cache", "depends", *options, *chosen).splitlines():
            name = line.split()[-1].strip("<>")
            if not line.startswith((" ", "|")):
                at = name
            elif name in needs and at in needs:  # an alternative or a provider that was not chosen is in neither
                needs[at].add(name)
        return cls({name: frozenset(found) for name, found in needs.items()})

    def below(self, names: Iterable[str]) -> set[str]:
        """*names* and all that they need."""
        found: set[str] = set()
        todo = [name for name in names if name in self.needs]
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self.needs[name]
        return found


def fetch(names: Iterable[str], directory: Path) -> dict[str, Path]:
    """Download the packages *names* to *directory*; where each of them is."""
    directory.mkdir(parents=True, exist_ok=True)
    wanted = sorted(names)
    _run(tool("apt-get"), "-q", "-o", "APT::Sandbox::User=", "download", *wanted, cwd=directory)
    found = {path.name.partition("_")[0]: path for path in directory.glob("*.deb")}
    return {name: found[name] for name in wanted}


def unpack(package: Path, tree: Path) -> None:
    """Unpack the files of a .deb, but for documentation, into *tree*, whose /usr is merged; they are the caller's."""
    tree.mkdir(parents=True, exist_ok=True)
    words = ["--no-same-owner", "--preserve-permissions", f"--transform={MERGED}", "--keep-directory-symlink"]
    words += [f"--exclude={name}" for name in USELESS]
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", tree, *words], stdin=archive.stdout, check=True)
    assert archive.returncode == 0, package


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout
