"""A stand-in for a mirror of openSUSE Leap: a handful of packages with its names, in its layout, signed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.mirrors.tiny import SYSTEMCTL, Signer, busybox, programs, text_file
from tests.peers.tools import tool

RELEASE = "16.0"
OSS = f"distribution/leap/{RELEASE}/repo/oss/x86_64"
DATABASE = "/usr/lib/sysimage/rpm"
DRACUT = """\
#!/bin/sh
# Says what it would be made of.
cat /etc/dracut.conf.d/*.conf >"$1"
"""
KERNEL_POST = """\
# suse-module-tools: without it this is taken for the chroot in which a package is built.
[ -f /etc/fstab ] || exit 0
dracut /boot/initrd-6.4.0-default
"""


@dataclass(frozen=True)
class Package:
    """*tree* is what it installs; *provides* and *requires* are RPM's, *post* its scriptlet."""

    name: str
    tree: Path
    requires: str = ""
    provides: str = ""
    post: str = ""


def build(package: Package, directory: Path, work: Path) -> Path:
    """The package's file, in *directory*."""
    lines = [
        f"Name: {package.name}\nVersion: 1.0\nRelease: 1\nSummary: {package.name}\nLicense: various\nAutoReqProv: no",
        *(f"Provides: {name.replace('=', ' = ')}" for name in package.provides.split()),
        *(f"Requires: {name}" for name in package.requires.split()),
        f"%description\nA stand-in for openSUSE's {package.name}.",
        f"%install\nmkdir -p %{{buildroot}}\ncp -a {package.tree}/. %{{buildroot}}",
        *([f"%post\n{package.post}"] if package.post else []),
        "%files\n%defattr(-,root,root)",
        *(f"/{child.name}" for child in sorted(package.tree.iterdir())),
    ]
    spec = work / f"{package.name}.spec"
    spec.write_text("\n".join(lines) + "\n")
    macros = {
        "_topdir": work / "rpmbuild",
        "_dbpath": work / "rpmdb",
        "_rpmdir": directory,
        "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "_binary_payload": "w1.zstdio",
        "_build_id_links": "none",
        "__os_install_post": "%{nil}",
        "debug_package": "%{nil}",
    }
    words = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    run(tool("rpmbuild"), "--quiet", "-bb", "--target", "x86_64", *words, spec)
    return directory / f"{package.name}-1.0-1.x86_64.rpm"


def repository(directory: Path, packages: list[Package], work: Path, signer: Signer, unsigned: str = "") -> None:
    """A repository in *directory*, its packages signed, but for the one named *unsigned*, and its metadata."""
    files = [build(package, directory / "x86_64", work) for package in packages]
    macros = {"__gpg": tool("gpg"), "_gpg_name": signer.fingerprint, "_gpg_path": signer.home}
    words = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    signed = [file for file in files if not file.name.startswith(f"{unsigned}-")]
    if signed:
        run(tool("rpmsign"), *words, "--addsign", *signed)
    directory.mkdir(parents=True, exist_ok=True)
    run(tool("createrepo_c"), "--quiet", "--no-database", directory)
    signer.sign(directory / "repodata" / "repomd.xml", ".asc", armor=True)
    signer.public(directory / "repodata" / "repomd.xml.key")


def run(*words: str | Path) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"


def filesystem(root: Path) -> Path:
    """Directories, a merged /usr, users."""
    for name in ("boot", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr/bin", "usr/sbin", "var/log"):
        (root / name).mkdir(parents=True)
    for name in ("lib", "lib64"):
        (root / "usr" / name).mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / name).symlink_to(f"usr/{name}")
    text_file(root / "etc" / "passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/usr/bin/false\n")
    text_file(root / "etc" / "group", "root:x:0:\nnobody:x:65534:\n")
    return root


def mirror(root: Path, work: Path, signer: Signer) -> None:
    """The mirror in *root*: what the spec ``opensuse`` installs, and ``hello``, which needs ``greeting``, in the
    pattern ``greetings``. ``unsigned`` has no signature. Keys are where openSUSE has its own."""

    def tree(name: str) -> Path:
        (work / name).mkdir(parents=True)
        return work / name

    shell, rpm, zypper, systemd, kernel, dracut, release = map(
        tree, ("bash", "rpm", "zypper", "systemd", "kernel", "dracut", "release")
    )
    programs(shell, ("bash",))
    (shell / "usr" / "bin" / "sh").symlink_to("bash")
    busybox(shell)
    programs(rpm, ("rpm", "rpmdb", "rpmkeys", "gpg", "gpgconf"), beside=shell)
    shutil.copytree("/usr/lib/rpm", rpm / "usr" / "lib" / "rpm", symlinks=True, ignore=shutil.ignore_patterns("*.so"))
    text_file(rpm / "etc" / "rpm" / "macros.suse", f"%_dbpath {DATABASE}\n")
    (rpm / DATABASE.lstrip("/")).mkdir(parents=True)
    programs(zypper, ("zypper", "rpmdb2solv", "repo2solv"), beside=rpm)
    text_file(
        release / "usr" / "lib" / "os-release", f'NAME="openSUSE Leap"\nID="opensuse-leap"\nVERSION_ID="{RELEASE}"\n'
    )
    (release / "etc").mkdir()
    (release / "etc" / "os-release").symlink_to("../usr/lib/os-release")
    text_file(systemd / "usr" / "bin" / "systemctl", SYSTEMCTL, 0o755)
    text_file(systemd / "usr" / "lib" / "systemd" / "systemd", "#!/bin/sh\n", 0o755)
    text_file(kernel / "boot" / "vmlinuz-6.4.0-default", "a kernel\n")
    text_file(dracut / "usr" / "bin" / "dracut", DRACUT, 0o755)
    for name in ("greeting", "hello", "unsigned"):
        text_file(tree(name) / "usr" / "share" / name, f"{name}\n")
    packages = [
        Package("filesystem", filesystem(tree("filesystem"))),
        Package("bash", shell, "filesystem", "/bin/sh"),
        Package("rpm", rpm, "bash"),
        Package("zypper", zypper, "rpm"),
        Package("Leap-release", release, "filesystem"),
        Package("systemd", systemd, "bash"),
        *(Package(name, tree(name), "systemd") for name in ("systemd-networkd", "systemd-resolved")),
        Package("patterns-base-minimal_base", tree("minimal_base"), "bash systemd zypper Leap-release"),
        Package("dracut", dracut, "bash"),
        Package("kernel-default-base", kernel, "dracut", post=KERNEL_POST),
        *(Package(name, tree(name)) for name in ("iproute2", "ca-certificates-mozilla")),
        Package("greeting", work / "greeting"),
        Package("hello", work / "hello", "greeting"),
        Package("patterns-greetings", tree("greetings"), "hello", "pattern()=greetings pattern-visible()"),
        Package("unsigned", work / "unsigned"),
    ]
    repository(root / OSS, packages, work, signer, "unsigned")
    shutil.rmtree(work)
