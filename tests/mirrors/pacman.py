"""A stand-in for a mirror of Arch Linux: a handful of packages with its names, in its layout, signed.

Sources: PKGINFO and the database's ``desc`` as pacman's ``makepkg`` and ``repo-add`` write them, and alpm-hooks(5).
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

import zstandard

from tests.mirrors.tiny import SYSTEMCTL, Signer, busybox, programs, text_file

CONFIGURATION = """\
[options]
HoldPkg = pacman glibc
Architecture = auto
CheckSpace
SigLevel = Required DatabaseOptional
[core]
Include = /etc/pacman.d/mirrorlist
[extra]
Include = /etc/pacman.d/mirrorlist
"""
MKINITCPIO = """\
#!/bin/sh
# Says what it would be made of.
cat /etc/mkinitcpio.conf.d/*.conf >/boot/initramfs-linux.img
"""
HOOK = """\
[Trigger]
Type = Path
Operation = Install
Target = usr/lib/modules/*/vmlinuz
[Action]
When = PostTransaction
Exec = /usr/share/libalpm/scripts/mkinitcpio
"""
SCRIPT = """\
#!/bin/sh -e
[ -s /etc/mkinitcpio.d/linux.preset ]
cp /usr/lib/modules/*/vmlinuz /boot/vmlinuz-linux
mkinitcpio -P
"""


@dataclass(frozen=True)
class Package:
    """What is in the database, and *tree*, what it installs; *script* is its ``.INSTALL``."""

    name: str
    tree: Path
    depends: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    version: str = "1.0-1"
    script: str = ""
    signed: bool = True

    @property
    def fields(self) -> list[tuple[str, str]]:
        lists = [*(("depend", name) for name in self.depends), *(("group", name) for name in self.groups)]
        size = sum(path.stat().st_size for path in self.tree.rglob("*") if path.is_file() and not path.is_symlink())
        return [("pkgname", self.name), ("pkgver", self.version), ("size", str(size)), ("arch", "any"), *lists]


def _member(archive: tarfile.TarFile, name: str, text: str) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(text.encode())
    archive.addfile(member, io.BytesIO(text.encode()))


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def pack(package: Package, directory: Path) -> Path:
    """The package's file, in *directory*."""
    path = directory / f"{package.name}-{package.version}-any.pkg.tar.zst"
    with (
        path.open("wb") as file,
        zstandard.ZstdCompressor(1).stream_writer(file) as stream,
        tarfile.open(fileobj=stream, mode="w|") as archive,
    ):
        _member(archive, ".PKGINFO", "".join(f"{name} = {value}\n" for name, value in package.fields))
        if package.script:
            _member(archive, ".INSTALL", package.script)
        for child in sorted(package.tree.iterdir()):
            archive.add(child, child.name, filter=_owned_by_root)
    return path


def repository(root: Path, name: str, packages: list[Package], signer: Signer) -> None:
    """The repository *name* of the mirror *root*."""
    directory = root / name / "os" / "x86_64"
    directory.mkdir(parents=True)
    database = directory / f"{name}.db"
    with tarfile.open(database, "w:gz") as archive:
        for package in packages:
            path = pack(package, directory)
            if package.signed:
                signer.sign(path)
            fields = {
                "FILENAME": path.name,
                "NAME": package.name,
                "VERSION": package.version,
                "CSIZE": str(path.stat().st_size),
                "ISIZE": dict(package.fields)["size"],
                "SHA256SUM": hashlib.sha256(path.read_bytes()).hexdigest(),
                "ARCH": "any",
                "DEPENDS": "\n".join(package.depends),
                "GROUPS": "\n".join(package.groups),
            }
            text = "".join(f"%{key}%\n{value}\n\n" for key, value in fields.items() if value)
            _member(archive, f"{package.name}-{package.version}/desc", text)
    signer.sign(database)


def filesystem(root: Path) -> Path:
    """What every Arch begins with: directories, a merged /usr, users."""
    for name in ("boot", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/lib", "var/log"):
        (root / name).mkdir(parents=True)
    for link, target in {"bin": "usr/bin", "sbin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}.items():
        (root / link).symlink_to(target)
    (root / "usr" / "lib64").mkdir()
    (root / "usr" / "sbin").symlink_to("bin")
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/usr/bin/sh\nnobody:x:65534:65534::/:/usr/bin/false\n")
    (root / "etc" / "group").write_text("root:x:0:\nnobody:x:65534:\n")
    (root / "etc" / "mtab").symlink_to("../proc/self/mounts")
    (root / "etc" / "os-release").write_text('NAME="Arch Linux"\nID=arch\nBUILD_ID=rolling\n')
    return root


def mirror(root: Path, work: Path, signer: Signer) -> None:
    """The mirror in *root*: what the spec ``arch`` installs, and ``hello``, which needs ``greeting``; the group
    ``greetings`` has both. ``unsigned`` has no signature. The key is ``archlinux.asc``."""

    def tree(name: str) -> Path:
        (work / name).mkdir(parents=True)
        return work / name

    shell, manager, systemd, kernel, maker = map(tree, ("bash", "pacman", "systemd", "linux", "mkinitcpio"))
    programs(shell, ("bash",))
    (shell / "usr" / "bin" / "sh").symlink_to("bash")
    busybox(shell)
    programs(manager, ("pacman", "pacman-conf", "gpg", "gpgconf"), beside=shell)
    text_file(manager / "etc" / "pacman.conf", CONFIGURATION)
    text_file(manager / "usr" / "share" / "libalpm" / "hooks" / "README", "hooks\n")
    text_file(tree("pacman-mirrorlist") / "etc" / "pacman.d" / "mirrorlist", "#Server = nowhere\n")
    text_file(systemd / "usr" / "bin" / "systemctl", SYSTEMCTL, 0o755)
    text_file(systemd / "usr" / "lib" / "systemd" / "systemd", "#!/bin/sh\n", 0o755)
    text_file(kernel / "usr" / "lib" / "modules" / "6.0-arch1-1" / "vmlinuz", "a kernel\n")
    text_file(maker / "usr" / "bin" / "mkinitcpio", MKINITCPIO, 0o755)
    text_file(maker / "usr" / "share" / "libalpm" / "hooks" / "90-mkinitcpio-install.hook", HOOK)
    text_file(maker / "usr" / "share" / "libalpm" / "scripts" / "mkinitcpio", SCRIPT, 0o755)
    for name in ("greeting", "hello", "unsigned"):
        text_file(tree(name) / "usr" / "share" / name, f"{name}\n")
    core = [
        Package("filesystem", filesystem(tree("filesystem"))),
        Package("bash", shell, ("filesystem",)),
        Package("pacman-mirrorlist", work / "pacman-mirrorlist"),
        Package("pacman", manager, ("bash", "pacman-mirrorlist"), script="post_install() { echo pacman is there; }\n"),
        Package("systemd", systemd, ("bash",)),
        Package("base", tree("base"), ("bash", "filesystem", "pacman", "systemd")),
        Package("linux", kernel, ("mkinitcpio",)),
        Package("mkinitcpio", maker, ("bash",)),
    ]
    extra = [
        Package("greeting", work / "greeting", groups=("greetings",)),
        Package("hello", work / "hello", ("greeting",), ("greetings",)),
        Package("unsigned", work / "unsigned", signed=False),
    ]
    repository(root, "core", core, signer)
    repository(root, "extra", extra, signer)
    signer.public(root / "archlinux.asc")
    shutil.rmtree(work)
