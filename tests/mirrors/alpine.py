"""A stand-in for Alpine's minirootfs. Its apk and rc-update are scripts that note what was asked of them: Debian has no
apk, so neither Alpine's packages nor their signatures are tried with it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from pathlib import Path

from tests.peers.tools import tool

VERSION, BRANCH = "3.22.1", "v3.22"
APK = """\
#!/bin/sh
# Enough of apk(8) for the spec alpine.
[ "$1" != --repositories-file ] || shift 2
[ "$1" = add ] || exit 0
shift
for name; do
    printf 'P:%s\\nV:1-r0\\nA:x86_64\\n\\n' "$name" >>/lib/apk/db/installed
    case $name in
    alpine-base) echo 'tty1::respawn:/sbin/getty 38400 tty1' >/etc/inittab ;;
    linux-*) echo 'a kernel' >"/boot/vmlinuz-${name#linux-}"
        cat /etc/mkinitfs/mkinitfs.conf /etc/mkinitfs/features.d/*.files >"/boot/initramfs-${name#linux-}" ;;
    esac
done
"""
RC_UPDATE = """\
#!/bin/sh
[ "$1" = add ] && mkdir -p "/etc/runlevels/$3" && ln -sf "/etc/init.d/$2" "/etc/runlevels/$3/$2"
"""
FILES = {
    "sbin/apk": APK,
    "sbin/rc-update": RC_UPDATE,
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/os-release": f'NAME="Alpine Linux"\nID=alpine\nVERSION_ID={VERSION}\n',
    "lib/apk/db/installed": "P:musl\nV:1.2.5-r10\nA:x86_64\n\n",
}


def mirror(root: Path) -> str:
    """The mirror in *root*; the SHA-256 of its minirootfs."""
    directory = root / BRANCH / "releases" / "x86_64"
    directory.mkdir(parents=True)
    path = directory / f"alpine-minirootfs-{VERSION}-x86_64.tar.gz"
    busybox = Path(tool("busybox"))
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with tarfile.open(path, "w:gz") as archive:
        for name in ("bin", "boot", "dev", "etc", "lib", "proc", "run", "sbin", "sys", "tmp", "root"):
            _add(archive, name, kind=tarfile.DIRTYPE)
        _add(archive, "bin/busybox", busybox.read_bytes())
        for name in applets:
            if name != "busybox":
                _add(archive, f"bin/{name}", kind=tarfile.SYMTYPE, link="busybox")
        for name, text in FILES.items():
            _add(archive, name, text.encode(), mode=0o755 if text.startswith("#!") else 0o644)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _add(
    archive: tarfile.TarFile,
    name: str,
    content: bytes = b"",
    *,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
    mode: int = 0o755,
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode, member.size = kind, link, mode, len(content)
    archive.addfile(member, io.BytesIO(content))
