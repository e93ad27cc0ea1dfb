"""A guest in which apt runs, made in a second from the programs of this host: enough to install small packages."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

from tests.mirrors.tiny import busybox, programs

PROGRAMS = (
    "sh",
    "bash",
    "apt-get",
    "apt-mark",
    "apt-config",
    "dpkg",
    "dpkg-deb",
    "dpkg-split",
    "dpkg-query",
    "gpgv",
    "tar",
)
METHODS = "/usr/lib/apt/methods"
DIRECTORIES = (
    *("usr/bin", "usr/lib", "usr/lib64", "etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/trusted.gpg.d"),
    *("var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/apt/lists/partial", "var/log/apt"),
    "var/cache/apt/archives/partial",
)
LINKS = {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "usr/sbin": "bin"}


def apt_guest(work: Path) -> tuple[Path, str]:
    """Make the guest's root as a tar file below *work*; return it and its SHA-256."""
    root = work / "root"
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    (root / "tmp").mkdir(mode=0o1777)
    (root / "tmp").chmod(0o1777)
    methods = [str(path) for path in Path(METHODS).iterdir() if path.name in ("http", "gpgv", "store", "copy", "file")]
    programs(root, [*PROGRAMS, *methods])
    busybox(root)  # for the rest
    shutil.copy2("/usr/bin/apt-key", root / "usr/bin/apt-key")
    shutil.copytree("/usr/share/dpkg", root / "usr/share/dpkg")
    (root / "usr/bin/ldconfig").write_text("#!/bin/sh\n")
    (root / "usr/bin/ldconfig").chmod(0o755)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n_apt:x:100:65534::/nonexistent:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "var/lib/dpkg/status").touch()
    (root / "var/lib/dpkg/available").touch()
    (root / "etc/os-release").write_text("ID=debian\nVERSION_CODENAME=small\n")
    archive = work / "root.tar"
    with tarfile.open(archive, "w") as tar:
        for child in sorted(root.iterdir()):
            tar.add(child, arcname=child.name, filter=_roots)
    shutil.rmtree(root)
    return archive, hashlib.sha256(archive.read_bytes()).hexdigest()


def _roots(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid, member.gid, member.uname, member.gname, member.mtime = 0, 0, "root", "root", 0
    return member
