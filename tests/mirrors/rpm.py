"""A stand-in for a mirror of CentOS Stream: its directories, its names of packages and groups, RPMs that are signed.

The contents are Debian's, repacked: enough for a machine that boots, installs with dnf and shows a desktop's target.
What CentOS splits finely is one package here, and provides the other names.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.mirrors import debian
from tests.mirrors.tiny import Signer
from tests.peers.tools import tool

BASE, APPS = "9-stream/BaseOS/x86_64/os", "9-stream/AppStream/x86_64/os"
KEY = "RPM-GPG-KEY-CentOS-Official"
WITHOUT = (
    r"perl.*|lib.*-perl|libperl.*|usrmerge|debconf|dpkg|initramfs-tools.*|klibc-utils|libklibc|linux-base|adduser|"
    r"init-system-helpers|sgml-base|xml-core|dirmngr|gnupg.*|gpg-wks.*|gpgsm|pinentry.*|sqlite3|base-files|media-types|"
    r"lsb-base|ucf|kpartx|libnewt.*|sysvinit-utils|libgdbm.*|libdebconfclient0|debugedit"
)
"""What Debian's maintainer scripts need, and what dnf and NetworkManager do without here."""
Named = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Rpm:
    """A package: *name*, what it *provides* beside that and *requires*, the Debian packages *debs* with all below them
    that no package before it has, *files* (a text, or the target of a symlink after ``->``), *attributes* (mode, user
    and group by file), and its scripts."""

    name: str
    debs: str = ""
    provides: str = ""
    requires: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)
    post: str = ""
    posttrans: str = ""
    version: str = "9"
    where: str = BASE


OS_RELEASE = """\
NAME="CentOS Stream"
VERSION="9"
ID="centos"
ID_LIKE="rhel fedora"
VERSION_ID="9"
PLATFORM_ID="platform:el9"
PRETTY_NAME="CentOS Stream 9"
VARIANT="a stand-in, made of Debian's packages"
"""
REPOSITORY = """\
[baseos]
name=CentOS Stream $releasever - BaseOS
metalink=https://mirrors.invalid/metalink?repo=centos-baseos-$stream&arch=$basearch
gpgcheck=1
enabled=1
"""
PAM = {
    "auth": "auth required pam_unix.so\n",
    "account": "account required pam_unix.so\n",
    "password": "password required pam_unix.so obscure yescrypt\n",
    "session": "session required pam_unix.so\nsession optional pam_systemd.so\n",
    "session-noninteractive": "session required pam_unix.so\n",
}
DIRECTORIES = """boot dev home mnt opt proc root run srv sys tmp etc/pki/rpm-gpg usr/bin usr/sbin usr/lib usr/lib64
var/cache var/lib var/log var/tmp"""
USERS = "systemd-sysusers"
HELPER = "/usr/lib/dbus-1.0/dbus-daemon-launch-helper"
"""Of a group that its own package declares."""
CENTOS = (
    Rpm(
        "filesystem",
        requires="setup",
        files={f"/{name}": f"-> usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
        | {f"/{name}/": "" for name in DIRECTORIES.split()}
        | {"/var/run": "-> ../run"},
    ),
    Rpm(
        "setup",
        "base-passwd netbase",
        requires="system-release",
        files={
            "/etc/passwd": "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n",
            "/etc/shadow": "root:!locked::0:99999:7:::\nnobody:*::0:99999:7:::\n",
            "/etc/group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nshadow:x:42:\nutmp:x:22:\nadm:x:4:\nnogroup:x:65534:\n",
            "/etc/gshadow": "root:*::\n",
            "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
            "/etc/shells": "/bin/sh\n/bin/bash\n",
            "/etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
            "/etc/profile": "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin\n",
        },
    ),
    Rpm(
        "centos-stream-release",
        provides="centos-release system-release=9 system-release(releasever)=9",
        requires="centos-stream-repos",
        files={
            "/usr/lib/os-release": OS_RELEASE,
            "/etc/os-release": "-> ../usr/lib/os-release",
            "/etc/centos-release": "CentOS Stream release 9\n",
            "/etc/redhat-release": "-> centos-release",
        },
    ),
    Rpm("centos-stream-repos", files={"/etc/yum.repos.d/centos.repo": REPOSITORY}),
    Rpm(
        "glibc", "libc6 libc-bin", "glibc-minimal-langpack glibc-common", "filesystem", post="ldconfig", version="2.34"
    ),
    Rpm("bash", "bash", "/bin/sh", "glibc", {"/usr/bin/sh": "-> bash"}, version="5.1"),
    Rpm(
        "coreutils",
        "coreutils sed grep findutils gzip mawk tar ncurses-bin ncurses-base",
        "sed grep findutils gzip gawk tar",
        "bash",
        {"/usr/bin/awk": "-> mawk", "/usr/bin/which": "-> which.debianutils"},
        version="8.32",
    ),
    Rpm(
        "util-linux",
        "login mount util-linux passwd",
        "shadow-utils pam passwd",
        "coreutils",
        {f"/etc/pam.d/common-{kind}": text for kind, text in PAM.items()},
        {"/usr/sbin/unix_chkpwd": "4755, root, root"},
        version="2.37",
    ),
    Rpm(
        "systemd",
        "systemd-sysv dbus libpam-systemd udev kmod",
        "systemd-udev systemd-pam kmod dbus",
        "util-linux",
        attributes={HELPER: "4750, root, messagebus"},
        post=f"{USERS}\nsystemd-machine-id-setup\nsystemctl enable getty@tty1.service",
        version="252",
    ),
    Rpm(
        "dnf",
        "dnf rpm",
        "rpm python3 dnf-data yum",
        "systemd",
        {"/etc/rpm/macros.dist": "%_dbpath /var/lib/rpm\n", "/etc/dnf/dnf.conf": "[main]\ngpgcheck=1\nbest=True\n"},
        version="4.14",
    ),
    Rpm("NetworkManager", "network-manager", "polkit", "systemd", post=USERS, version="1.42"),
    Rpm("dracut", "dracut-core", "cpio e2fsprogs", "systemd", version="57"),
    Rpm(
        "kernel-core",
        "linux-image-cloud-amd64",
        "kernel-modules kernel-modules-core",
        "dracut",
        post="depmod -a @kernel@",
        posttrans="kernel-install add @kernel@ /lib/modules/@kernel@/vmlinuz",
        version="6.1",
    ),
    Rpm("procps-ng", "procps hostname iproute2 curl", "hostname iproute curl", "systemd", version="3.3"),
    Rpm(
        "gdm",
        requires="systemd",
        files={
            "/usr/lib/systemd/system/gdm.service": "[Unit]\nDescription=A stand-in for the GNOME Display Manager\n"
            "[Service]\nExecStart=/usr/bin/sleep infinity\n[Install]\nAlias=display-manager.service\n"
        },
        version="40",
        where=APPS,
    ),
    Rpm("gnome-shell", files={"/usr/bin/gnome-shell": "#!/bin/sh\n"}, requires="bash", version="40", where=APPS),
)
GROUPS = {BASE: {"core": ("bash", "dnf")}, APPS: {"gnome-desktop": ("gdm", "gnome-shell")}}
ENVIRONMENTS = {APPS: {"workstation-product-environment": ("core", "gnome-desktop")}}


def centos(root: Path, work: Path, key: Signer) -> None:
    """Make the mirror in *root*; *work* is thrown away."""
    closure = debian.Closure.of(" ".join(rpm.debs for rpm in CENTOS).split(), WITHOUT)
    packages = debian.fetch(closure.below(closure.needs), work / "debs")
    owned: set[str] = set()
    for rpm in CENTOS:
        below = closure.below(rpm.debs.split()) - owned
        owned |= below
        tree = work / "trees" / rpm.name
        for name in sorted(below):
            debian.unpack(packages[name], tree)
        build(rpm, tree, root / rpm.where / "Packages", work)
    for where in (BASE, APPS):
        sign(root.glob(f"{where}/Packages/*.rpm"), key)
        index(root / where, key, GROUPS.get(where, {}), ENVIRONMENTS.get(where, {}))
    key.public(root / KEY)


def build(rpm: Rpm, tree: Path, target: Path, work: Path) -> None:
    """Make the RPM of *tree* and of what *rpm* says."""
    tree.mkdir(parents=True, exist_ok=True)
    for path, text in rpm.files.items():
        place = tree / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True) if not path.endswith("/") else place.mkdir(exist_ok=True)
        if text.startswith("-> "):
            place.symlink_to(text.removeprefix("-> "))
        elif not path.endswith("/"):
            place.write_text(text)
            place.chmod(0o755 if text.startswith("#!") else 0o600 if "shadow" in path else 0o644)
    kernel = _kernel(tree)
    if (tree / "usr/lib/python3").exists():  # emulated, Python takes long to compile
        words = ("/usr/bin/python3", "-m", "compileall", "-q", "-j0", "-s", tree, "-p", "/")
        run(*words, *tree.glob("usr/lib/python3*"))
    scripts = {"post": rpm.post, "posttrans": rpm.posttrans}
    lines = [
        f"Name: {rpm.name}\nVersion: {rpm.version}\nRelease: 1.el9\nSummary: {rpm.name}\nLicense: various",
        "AutoReqProv: no",
        *(f"Provides: {name.replace('=', ' = ')}" for name in rpm.provides.split()),
        *(f"Requires: {name}" for name in rpm.requires.split()),
        f"%description\nA stand-in for CentOS Stream's {rpm.name}.",
        f"%install\nmkdir -p %{{buildroot}}\ncp -a {tree}/. %{{buildroot}}",
        *(f"%{name}\n{text.replace('@kernel@', kernel)}" for name, text in scripts.items() if text),
        "%files\n%defattr(-,root,root)",
        *(f"/{name.name}" for name in sorted(tree.iterdir())),
        *(f"%attr({attribute}) {path}" for path, attribute in rpm.attributes.items()),
    ]
    spec = work / f"{rpm.name}.spec"
    spec.write_text("\n".join(lines) + "\n")
    macros = _macros(
        _topdir=work / "rpmbuild",
        _dbpath=work / "rpmdb",
        _rpmdir=target,
        _build_name_fmt="%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        _binary_payload="w3.zstdio",
        _build_id_links="none",
        __os_install_post="%{nil}",
        debug_package="%{nil}",
    )
    run(tool("rpmbuild"), "--quiet", "-bb", "--target", "x86_64", *macros, spec)


def sign(packages: Iterable[Path], key: Signer) -> None:
    """Sign the RPMs *packages* with *key*."""
    more = "--batch --pinentry-mode loopback --passphrase ''"
    macros = _macros(__gpg=tool("gpg"), _gpg_name=key.fingerprint, _gpg_path=key.home, _gpg_sign_cmd_extra_args=more)
    run(tool("rpmsign"), *macros, "--addsign", *sorted(packages))


def _macros(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in ("--define", f"{name} {value}")]


def index(directory: Path, key: Signer, groups: Named, environments: Named) -> None:
    """Write the metadata of *directory*, and sign it."""
    comps = directory.parent / "comps.xml"
    comps.write_text(_comps(groups, environments))
    run(tool("createrepo_c"), "--quiet", "--no-database", "--groupfile", comps, directory)
    comps.unlink()
    key.sign(directory / "repodata" / "repomd.xml", ".asc", armor=True)


def _comps(groups: Named, environments: Named) -> str:
    lines = ["<comps>"]
    for name, packages in groups.items():
        required = "".join(f'<packagereq type="mandatory">{package}</packagereq>' for package in packages)
        lines.append(f"<group><id>{name}</id><name>{name}</name><packagelist>{required}</packagelist></group>")
    for name, members in environments.items():
        listed = "".join(f"<groupid>{member}</groupid>" for member in members)
        lines.append(f"<environment><id>{name}</id><name>{name}</name><grouplist>{listed}</grouplist></environment>")
    return "\n".join([*lines, "</comps>", ""])


def _kernel(tree: Path) -> str:
    """Move a kernel to where Red Hat's packages have it; its version, "" where there is none."""
    for image in tree.glob("boot/vmlinuz-*"):
        version = image.name.removeprefix("vmlinuz-")
        for file in (tree / "boot").iterdir():
            file.rename(tree / f"usr/lib/modules/{version}" / file.name.removesuffix(f"-{version}"))
        (tree / "boot").rmdir()
        return version
    return ""


def run(*words: str | Path) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout
