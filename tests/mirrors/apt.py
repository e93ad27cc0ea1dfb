"""A stand-in for a mirror of Ubuntu: its suites and components, its names of packages, an index that is signed.

The packages are Debian's, as they are, but for those that make the difference: they say that this is Ubuntu, bring its
keys, and have the names by which Ubuntu's kernel is known.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.mirrors import debian
from tests.mirrors.tiny import Signer, serve, signer
from tests.peers.tools import tool

SUITE = "noble"
POCKETS = ("", "-updates", "-security")
COMPONENTS = ("main", "universe")
KEY = "project/ubuntu-archive-keyring.gpg"
"""Where Ubuntu's own mirrors have theirs."""
SEEDS = """
    apt usr-is-merged systemd systemd-sysv systemd-resolved dbus udev iproute2 initramfs-tools zstd
    grub-common grub2-common grub-pc-bin grub-efi-amd64-bin linux-image-cloud-amd64
"""
OS_RELEASE = """\
PRETTY_NAME="Ubuntu 24.04 LTS (a stand-in)"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
"""


@dataclass(frozen=True)
class Mirror:
    """A mirror that is served: *url* as a guest writes it, and what its key is known by."""

    url: str
    fingerprint: str


def control(name: str, version: str = "1", **fields: str) -> str:
    """The control file of a package that is for every architecture (deb-control(5))."""
    known = {"Package": name, "Version": version, "Architecture": "all", "Maintainer": "nobody <nobody@localhost>"}
    known |= {"Section": "misc", "Priority": "optional", "Description": "a stand-in"}
    known |= {field.replace("_", "-"): value for field, value in fields.items()}
    return "".join(f"{field}: {value}\n" for field, value in known.items())


def package(directory: Path, text: str, files: Mapping[str, bytes] | None = None) -> Path:
    """Build a package below *directory* from the *text* of its control file and its *files*."""
    name, version, architecture = (
        re.search(rf"^{field}: (.*)$", text, re.MULTILINE)[1]  # type: ignore[index]
        for field in ("Package", "Version", "Architecture")
    )
    tree = directory / f"{name}.tree"
    for path, content in {"DEBIAN/control": text.encode(), **(files or {})}.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    built = directory / f"{name}_{version.replace(':', '%3a')}_{architecture}.deb"
    _run("dpkg-deb", "--root-owner-group", "-Zgzip", "--build", tree, built)
    return built


def suite(root: Path, name: str, pools: Mapping[str, Path], key: Signer, *options: str, **fields: str) -> None:
    """Write the suite *name* of the mirror *root*: the packages of each component are below its pool; the mirror's file
    ``override`` tells their priorities (apt-ftparchive(1)). *options* are gpg's, such as another time."""
    place = root / "dists" / name
    override = root / "override"
    override.touch()
    for component, pool in pools.items():
        binary = place / component / "binary-amd64"
        binary.mkdir(parents=True)
        listed = _run(tool("apt-ftparchive"), "packages", pool.relative_to(root), override, cwd=root)
        (binary / "Packages").write_text(listed)
    known = {"Suite": name, "Codename": name, "Components": " ".join(pools), "Architectures": "amd64", **fields}
    settings = [f"-oAPT::FTPArchive::Release::{field}={value}" for field, value in known.items()]
    (place / "Release").write_text(_run(tool("apt-ftparchive"), *settings, "release", place))
    words = ("--local-user", key.fingerprint, "--output", str(place / "InRelease"), "--clearsign")
    key.gpg(*options, *words, str(place / "Release"))


def _run(*words: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout


def _priorities() -> dict[str, tuple[str, bool]]:
    """Of every package that apt knows: its priority, and whether it is essential."""
    found = {}
    for stanza in _run("apt-cache", "dumpavail").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Priority|Essential): (.*)$", stanza, re.MULTILINE))
        if "Package" in fields:
            found[fields["Package"]] = (fields.get("Priority", "optional"), "Essential" in fields)
    return found


def _base_files(original: Path, work: Path) -> Path:
    """Debian's base-files, which says that it is Ubuntu's."""
    tree = work / "base-files"
    _run("dpkg-deb", "--raw-extract", original, tree)
    (tree / "usr/lib/os-release").write_text(OS_RELEASE)
    (tree / "etc/issue").write_text("Ubuntu 24.04 LTS \\n \\l\n\n")
    sums = tree / "DEBIAN/md5sums"
    sums.write_text("".join(line for line in sums.open() if "os-release" not in line))
    built = work / original.name
    _run("dpkg-deb", "--root-owner-group", "--build", tree, built)
    return built


@contextlib.contextmanager
def ubuntu(work: Path) -> Iterator[Mirror]:
    """Make and serve the mirror below the empty directory *work*."""
    root = work / "mirror" / "ubuntu"
    pools = {name: {component: root / "pool" / name / component for component in COMPONENTS} for name in POCKETS}
    for pool in (pool for found in pools.values() for pool in found.values()):
        pool.mkdir(parents=True)
    known = _priorities()
    required = [name for name, (priority, essential) in known.items() if essential or priority == "required"]
    names = debian.Closure.of([*SEEDS.split(), *required]).needs
    fetched = debian.fetch(names, work / "debian")
    # An archive decides what is required, and Ubuntu's does not require apt.
    override = {name: known[name][0] for name in names} | {"apt": "important", "ubuntu-keyring": "important"}
    (root / "override").write_text("".join(f"{name} {priority} misc\n" for name, priority in override.items()))
    with signer("ubuntu") as key:
        for name, path in fetched.items():
            pool = pools[""]["universe" if name == "zstd" else "main"]
            source = _base_files(path, work) if name == "base-files" else path
            source.rename(pool / path.name)
        key.public(work / "key.asc")
        (root / "project").mkdir()
        (root / KEY).write_bytes(key.gpg("--export", key.fingerprint))
        kernel = control("linux-image-virtual", "6.8.0-1", Depends="linux-image-cloud-amd64")
        package(work, kernel).rename(pools["-updates"]["main"] / "kernel.deb")
        keyring = {"usr/share/keyrings/ubuntu-archive-keyring.gpg": (root / KEY).read_bytes()}
        text = control("ubuntu-keyring", "2023.11.28.1", Priority="important")
        package(work, text, keyring).rename(pools[""]["main"] / "keyring.deb")
        for pocket in POCKETS:
            suite(root, f"{SUITE}{pocket}", pools[pocket], key, Origin="Ubuntu", Label="Ubuntu", Version="24.04")
        with serve(work / "mirror") as url:
            yield Mirror(f"{url}/ubuntu", key.fingerprint)
