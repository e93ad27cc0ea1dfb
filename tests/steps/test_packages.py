"""Packages: the commands of each manager, and what stands in the guest meanwhile and afterwards."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sfvm.errors import StepError
from sfvm.guest import Command
from sfvm.managers import apk, apt, pacman, rpm
from sfvm.managers.manager import OPEN, Manager
from sfvm.steps.packages import INITRAMFS, LATER, POLICY, REFUSE
from tests.verbs import Directory, Maker


@dataclass
class Installing(Directory):
    """A guest where *meanwhile* happens while the package manager runs."""

    meanwhile: Callable[[Directory], None] = lambda guest: None

    def run(self, command: Command) -> None:
        super().run(command)
        self.meanwhile(self)


@pytest.fixture
def debian(guest: Directory) -> Installing:
    made = Installing(guest.root)
    made.write("/usr/bin/apt-get", b"", mode=0o755)
    return made


def lines(make: Maker, guest: Directory, xml: str) -> list[str]:
    make(xml).run(guest)
    (command,) = guest.commands
    assert command.network
    assert command.packages
    return command.script.splitlines()


def test_apt(make: Maker, debian: Installing) -> None:
    *before, remove, clean = lines(make, debian, '<packages install="a b" remove="c"/>')
    (install,) = [line for line in before if line.endswith(" --no-install-recommends --allow-downgrades install a b")]
    assert [line for line in before if line.endswith(" update")]
    assert "--force-unsafe-io" in install
    assert "for name in c; do" in before
    assert remove.endswith(' --auto-remove purge "$@"')
    assert "apt-get clean" in clean
    assert "/var/lib/apt/lists/" in clean


def test_apt_with_recommended_packages_and_upgrade(make: Maker, debian: Installing) -> None:
    *_, upgrade, install, _ = lines(make, debian, '<packages install="a" upgrade="yes" recommends="yes"/>')
    assert upgrade.endswith(" --install-recommends dist-upgrade")
    assert install.endswith(" --install-recommends --allow-downgrades install a")


def test_removal_needs_no_index(make: Maker, debian: Installing) -> None:
    assert not [line for line in lines(make, debian, '<packages remove="a"/>') if line.endswith(" update")]


INSTALLED = {
    "apt": """#!/bin/sh
for name; do
    case $name in here|here:amd64) echo installed ;; gone) echo config-files ;; word) echo not-installed ;; esac
done
""",
    "pacman": """#!/bin/sh
if [ "$1" = -Rns ]; then echo "$@" >told; exit; fi
case "$*" in "-Qq here"|"-Qqg some") ;; *) exit 1 ;; esac
""",
}


@pytest.mark.parametrize(
    ("manager", "names", "told"),
    [
        (apt.MANAGER, "here gone never word here:amd64 linux-image-*", "here gone here:amd64 linux-image-*"),
        (apt.MANAGER, "never word", None),
        (pacman.MANAGER, "never here some", "here some"),
        (pacman.MANAGER, "never", None),
    ],
)
def test_what_is_not_there_need_not_go(tmp_path: Path, manager: Manager, names: str, told: str | None) -> None:
    """Of a package that is in no list apt says "unable to locate", and there is no list when nothing is installed."""
    tools = {"dpkg-query": INSTALLED["apt"], "apt-get": '#!/bin/sh\necho "$@" >told\n', "pacman": INSTALLED["pacman"]}
    for name, text in tools.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    script = manager.remove.replace("{}", shlex.join(names.split()))
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, env=environment, check=True)
    ran = (tmp_path / "told").read_text().split() if (tmp_path / "told").exists() else None
    assert (ran and ran[-len((told or "").split()) :]) == (told and told.split())


ALL = '<packages install="a=1-2 b&gt;=1" groups="g" remove="c" hold="d e.+" unhold="f" upgrade="yes"/>'
FINE = 'case $? in 102|103|107) ;; *) exit "$?" ;; esac'
PACMAN = "pacman --config /run/sfvm/pacman.conf --noconfirm"
DNF = "dnf -y --setopt=cachedir=/run/sfvm/packages/dnf"
ZYPPER = "zypper --reposd-dir /run/sfvm/repos -n"
APK = "apk --repositories-file /run/sfvm/repositories"
COPIED = [*apk.COPIED.splitlines()]
SCRIPTS = {
    "/usr/bin/dnf": [
        "[ ! -e /etc/dnf/dnf.conf ] || sed -E -i '/^excludepkgs=/{s/ f( |$)/\\1/g}' /etc/dnf/dnf.conf",
        *rpm.DNF.refresh.splitlines(),
        f"{DNF} --setopt=reposdir=/run/sfvm/repos --setopt=install_weak_deps=False upgrade",
        f"{DNF} --setopt=reposdir=/run/sfvm/repos --setopt=install_weak_deps=False install a-1-2 'b>=1' @g",
        f"{DNF} remove c",
        "[ ! -e /etc/dnf/dnf.conf ] || sed -E -i '/^excludepkgs=/{s/ d( |$)/\\1/g;s/ e[.][+]( |$)/\\1/g}' "
        "/etc/dnf/dnf.conf",
        "grep -qs '^\\[main\\]' /etc/dnf/dnf.conf || echo '[main]' >>/etc/dnf/dnf.conf",
        "grep -q '^excludepkgs=' /etc/dnf/dnf.conf || sed -i '/^\\[main\\]/a excludepkgs=' /etc/dnf/dnf.conf",
        "sed -i '/^excludepkgs=/s/$/ d e.+/' /etc/dnf/dnf.conf",
        "rm -rf /var/cache/dnf/* /var/cache/libdnf5/*",
    ],
    "/usr/bin/zypper": [
        "zypper -n removelock f",
        *rpm.ZYPPER.refresh.splitlines()[:-1],
        f"{ZYPPER} refresh",
        "command=update",
        "if grep -qs '^ID=\"opensuse-tumbleweed\"' /etc/os-release; then command=dup; fi",
        f"{ZYPPER} $command --no-recommends || {FINE}",
        f"{ZYPPER} install --oldpackage --no-recommends a=1-2 'b>=1' pattern:g || {FINE}",
        f"zypper -n remove --clean-deps c || {FINE.replace('102|', '102|104|')}",
        "zypper -n removelock d e.+",
        "zypper -n addlock d e.+",
        "zypper clean --all; rm -f /var/lib/zypp/AnonymousUniqueId",
    ],
    "/usr/bin/pacman": [
        "sed -E -i '/^IgnorePkg *=/{s/([= ])f( |$)/\\1\\2/g;/= *$/d}' /etc/pacman.conf",
        f"pacman-conf | sed -E '/^Server = /{OPEN}' >/run/sfvm/pacman.conf",
        f"{PACMAN} -Sy",
        f"{PACMAN} -Su",
        f"{PACMAN} -Su --needed a=1-2 'b>=1' g",
        *pacman.REMOVE.replace("{}", "c").splitlines(),
        "sed -E -i '/^IgnorePkg *=/{s/([= ])d( |$)/\\1\\2/g;s/([= ])e[.][+]( |$)/\\1\\2/g;/= *$/d}' /etc/pacman.conf",
        "sed -i '/^\\[options\\]/a IgnorePkg = d e.+' /etc/pacman.conf",
        "rm -rf /var/cache/pacman/pkg/* /var/lib/pacman/sync/*",
    ],
    "/sbin/apk": [
        *COPIED,
        f"! apk info -e f || {APK} add f",
        *COPIED,
        f"{APK} update",
        f"{APK} upgrade",
        f"{APK} add a=1-2 'b>=1'",
        "apk del c",
        *COPIED,
        f"! apk info -e d || {APK} add d",
        f"! apk info -e e.+ || {APK} add e.+",
        *COPIED,
        "version=$(apk info -ve d)",
        f"{APK} add d=${{version#d-}}",
        "version=$(apk info -ve e.+)",
        f"{APK} add e.+=${{version#e.+-}}",
        "rm -rf /var/cache/apk/*",
    ],
}


@pytest.mark.parametrize("program", SCRIPTS)
def test_other_managers(make: Maker, guest: Directory, program: str) -> None:
    guest.write(program, b"")
    xml = ALL.replace('groups="g" ', "") if "apk" in program else ALL
    assert lines(make, guest, xml) == SCRIPTS[program]


def test_apt_does_it_all(make: Maker, debian: Installing) -> None:
    first, *rest = lines(make, debian, ALL)
    assert first == "apt-mark -q unhold f"
    runs = [line for line in rest if "apt-get -q" in line and not line.endswith(" update")]
    ends = [line.rpartition(" -o DPkg::Pre-Install-Pkgs::=")[2].partition("' ")[2] for line in runs]
    ours = "-o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts=/run/sfvm/sources"
    assert ends == [
        f"{ours} --no-install-recommends dist-upgrade",
        f"{ours} --no-install-recommends --allow-downgrades install a=1-2 'b>=1' 'g^'",
        '--auto-remove purge "$@"',
    ]
    assert rest[-3:-1] == ["apt-mark -q unhold d e.+", "apt-mark -q hold d e.+"]


REPO = "[a]\nmetalink=https://l.invalid/x?y\nbaseurl = https://m.invalid/a/$basearch/ https://m.invalid:443\n"
OPENED = "[a]\nmetalink=https://l.invalid/x?y\nbaseurl = http://m.invalid:443/a/$basearch/ http://m.invalid:443\n"
SOURCES = """deb [arch=amd64 signed-by=/k] https://m.invalid/x y z
deb http://n.invalid/x y z
deb https://m.invalid:8443/x y z
"""
OPENED_SOURCES = SOURCES.replace("https://m.invalid/", "http://m.invalid:443/")


@pytest.mark.parametrize(
    ("manager", "path", "text", "copy", "opened"),
    [
        (apt.MANAGER, "/etc/apt/sources.list", SOURCES, "sources/sources.list", OPENED_SOURCES),
        (
            apt.MANAGER,
            "/etc/apt/sources.list.d/a.sources",
            "Types: deb\nURIs: https://m.invalid\n",
            "sources/a.sources",
            "Types: deb\nURIs: http://m.invalid:443\n",
        ),
        (rpm.DNF, "/etc/yum.repos.d/a.repo", REPO, "repos/a.repo", OPENED),
        (rpm.DNF, "/etc/yum.repos.d/a.repo", f"{REPO}sslclientkey=/k\n", "repos/a.repo", f"{REPO}sslclientkey=/k\n"),
        (rpm.ZYPPER, "/etc/zypp/repos.d/a.repo", REPO, "repos/a.repo", OPENED),
        (apk.MANAGER, "/etc/apk/repositories", "https://m.invalid/a\n@t http://n/b\n", "repositories",
         "http://m.invalid:443/a\n@t http://n/b\n"),
    ],
)  # fmt: skip
def test_what_a_guest_fetches_passes_the_proxy_in_the_open(
    guest: Directory, tmp_path: Path, manager: Manager, path: str, text: str, copy: str, opened: str
) -> None:
    """And the guest's own configuration stays as it is."""
    guest.write(path, text.encode())
    prepare(guest, tmp_path, manager)
    assert guest.read(f"/run/sfvm/{copy}").decode() == opened
    assert guest.read(path).decode() == text


def test_apt_sends_passwords_over_https_alone(guest: Directory, tmp_path: Path) -> None:
    guest.write("/etc/apt/sources.list", SOURCES.encode())
    guest.write("/etc/apt/auth.conf.d/a.conf", b"machine m.invalid login me password x\n")
    prepare(guest, tmp_path, apt.MANAGER)
    assert guest.read("/run/sfvm/sources/sources.list").decode() == SOURCES


def prepare(guest: Directory, home: Path, manager: Manager) -> None:
    """Run what comes before an installation, below *guest*, with programs that do nothing."""
    programs = home / "bin"
    programs.mkdir()
    for name in ("apt-get", "apk", "zypper", "dpkg"):
        (programs / name).symlink_to("/bin/true")
    script = re.sub(r"(?<![\w/])/(etc|run)/", rf"{guest.root}/\1/", manager.refresh)
    path = f"{programs}:{os.environ['PATH']}"
    subprocess.run(["bash", "-e", "-c", script], env={"PATH": path}, check=True)


def test_a_group_of_a_manager_without_groups(make: Maker, guest: Directory) -> None:
    guest.write("/sbin/apk", b"")
    with pytest.raises(StepError, match="apk has no groups") as caught:
        make('<packages groups="g"/>').run(guest)
    assert caught.value.hint
    assert not guest.commands


def shell(guest: Directory, script: str, path: str) -> None:
    """Run the lines of *script* that change the guest's file at *path*."""
    script = "\n".join(line for line in script.splitlines() if path in line).replace(path, str(guest.at(path)))
    subprocess.run(["sh", "-e", "-c", script], check=True)


@pytest.mark.parametrize(
    ("program", "path", "before", "held", "after"),
    [
        ("/usr/bin/dnf", "/etc/dnf/dnf.conf", "", "[main]\nexcludepkgs= a b.c+ d\n", "[main]\nexcludepkgs= bxc+\n"),
        (
            "/usr/bin/dnf",
            "/etc/dnf/dnf.conf",
            "[main]\nbest=True\n",
            "[main]\nexcludepkgs= a b.c+ d\nbest=True\n",
            "[main]\nexcludepkgs= bxc+\nbest=True\n",
        ),
        (
            "/usr/bin/pacman",
            "/etc/pacman.conf",
            "[options]\nColor\n",
            "[options]\nIgnorePkg = a b.c+ d\nColor\n",
            "[options]\nIgnorePkg = bxc+\nColor\n",
        ),
    ],
)
def test_what_is_held_stands_in_the_configuration(
    make: Maker, guest: Directory, program: str, path: str, before: str, held: str, after: str
) -> None:
    """Twice is once; what is given up is gone, and nothing that only looks like it."""
    guest.write(program, b"")
    if before:
        guest.write(path, before.encode())
    guest.at(path).parent.mkdir(parents=True, exist_ok=True)

    def do(xml: str) -> str:
        make(xml).run(guest)
        shell(guest, guest.commands[-1].script, path)
        return guest.read(path).decode()

    hold = '<packages hold="a b.c+ d"/>'
    assert do(hold) == held
    assert do(hold) == held
    do('<packages hold="bxc+"/>')
    assert sorted(do('<packages unhold="a d b.c+ e"/>').splitlines()) == sorted(after.splitlines())


def test_a_guest_without_a_manager(make: Maker, guest: Directory) -> None:
    with pytest.raises(StepError, match="no package manager"):
        make('<packages install="a"/>').run(guest)


def test_no_service_starts_meanwhile(make: Maker, debian: Installing) -> None:
    seen: list[tuple[bytes, int]] = []
    debian.meanwhile = lambda guest: seen.append((guest.read(POLICY), guest.at(POLICY).stat().st_mode & 0o777))
    make('<packages install="a"/>').run(debian)
    assert seen == [(REFUSE, 0o755)]
    assert not debian.exists(POLICY)
    assert not debian.exists(INITRAMFS), "initramfs is made as the guest has it"


def test_a_policy_of_the_guest_comes_back(make: Maker, debian: Installing) -> None:
    debian.write(POLICY, b"#!/bin/sh\nexit 0\n", mode=0o755)
    make('<packages install="a"/>').run(debian)
    assert debian.read(POLICY) == b"#!/bin/sh\nexit 0\n"
    assert debian.at(POLICY).stat().st_mode & 0o777 == 0o755


def test_a_policy_that_a_package_brings_stays(make: Maker, debian: Installing) -> None:
    debian.meanwhile = lambda guest: guest.write(POLICY, b"the package's", mode=0o755)
    make('<packages install="a"/>').run(debian)
    assert debian.read(POLICY) == b"the package's"


LATE = '<packages install="a" initramfs="later"/>'


def test_no_initramfs_meanwhile(make: Maker, debian: Installing) -> None:
    seen: list[bytes] = []
    debian.meanwhile = lambda guest: seen.append(guest.read(INITRAMFS))
    debian.write(INITRAMFS, b"update_initramfs=all\n")
    make(LATE).run(debian)
    assert seen == [LATER]
    assert b"update_initramfs=no" in LATER
    assert debian.read(INITRAMFS) == b"update_initramfs=all\n"
    (command,) = debian.commands
    assert command.env == {"INITRD": "No", "KERNEL_INSTALL_BYPASS": "1"}, "a kernel's own hook makes none either"


def test_the_configuration_that_the_package_brings_takes_its_place(make: Maker, debian: Installing) -> None:
    """dpkg has put it beside ours, because a file was there already."""
    debian.meanwhile = lambda guest: guest.write(f"{INITRAMFS}.dpkg-dist", b"the package's\n")
    make(LATE).run(debian)
    assert debian.read(INITRAMFS) == b"the package's\n"
    assert not debian.exists(f"{INITRAMFS}.dpkg-dist")


def test_without_the_package_nothing_stays(make: Maker, debian: Installing) -> None:
    make(LATE).run(debian)
    assert not debian.exists(INITRAMFS)


def test_other_guests_have_nothing_of_debians(make: Maker, guest: Directory) -> None:
    guest.write("/usr/bin/dnf", b"")
    make(LATE).run(guest)
    assert {path.name for path in guest.root.iterdir()} == {"usr"}


def test_inputs_and_title(make: Maker) -> None:
    step = make('<packages install=" a\n b " remove="c"/>')
    assert step.inputs() == {
        "install": ["a", "b"],
        "groups": [],
        "remove": ["c"],
        "hold": [],
        "unhold": [],
        "upgrade": False,
        "recommends": False,
        "initramfs": True,
    }
    assert step.title() == "packages install a b, remove c"
    assert make('<packages upgrade="yes"/>').title() == "packages upgrade"
    assert len(make(f'<packages install="{"long-name " * 20}"/>').title()) < 90


@pytest.mark.parametrize(
    ("xml", "what"),
    [
        ("<packages/>", "packages does nothing"),
        ('<packages upgrade="no"/>', "packages does nothing"),
        ('<packages install="a --allow-unauthenticated"/>', "'--allow-unauthenticated' is no package name"),
        ('<packages remove="-x"/>', "'-x' is no package name"),
        ('<packages groups="-x"/>', "'-x' is no package name"),
        ('<packages hold="a=1"/>', "'a=1' is no package name"),
        ('<packages unhold="a;id"/>', "'a;id' is no package name"),
    ],
)
def test_refused(make: Maker, xml: str, what: str) -> None:
    assert what in make.refused(xml).what
