"""What package managers tell of newer packages, as they print it."""

from __future__ import annotations

import pytest

from sfvm import managers
from sfvm.managers import apk, waiting
from sfvm.managers.waiting import Waiting

APT = """\
Reading package lists...
The following packages will be upgraded:
  libc6 openssl
Inst libc6 [2.36-9+deb12u3] (2.36-9+deb12u4 Debian:12.5/stable [amd64]) [libc-bin:amd64 ]
Inst openssl:i386 [3.0.11-1] (3.0.13-1~deb12u1 Debian:12.5/stable, Debian-Security:12/stable-security [i386])
Inst added (1.0 Debian:12.5/stable [all])
Inst bash [5.1-6ubuntu1] (5.1-6ubuntu1.1 Ubuntu:22.04/jammy-updates, Ubuntu:22.04/jammy-security [amd64])
Conf libc6 (2.36-9+deb12u4 Debian:12.5/stable [amd64])
"""
DNF = """\
- bar noarch 1.0-1

- foo noarch 3:1.0-1
- kernel x86_64 5.14.0-1.el9
- other-name noarch 1-1

+ foo noarch 3:2.0-1
+ bar noarch 1.1-1
+ new noarch 1-1
+ kernel x86_64 5.14.0-2.el9
+ other-name noarch 2-2
=== sfvm: security
{fixes}"""
DNF_4 = """\
X-2024-1 Important/Sec. foo-3:2.0-1.noarch
X-2024-2 Moderate/Sec.  other-name-2-1.noarch
X-2024-3 Moderate/Sec.  kernel-5.14.0-2.el9.i686
"""
DNF_5 = """\
Name     Type     Severity  Package                  Issued
X-2024-1 security Important foo-3:2.0-1.noarch       2024-10-01 12:00:00
X-2024-2 security None      other-name-2-1.noarch    2024-10-01 12:00:00
X-2024-3 security Moderate  kernel-5.14.0-2.el9.i686 2024-10-01 12:00:00
"""
FIXED = [
    Waiting("bar", "1.0-1", "1.1-1"),
    Waiting("foo", "3:1.0-1", "3:2.0-1", True),
    Waiting("kernel", "5.14.0-1.el9", "5.14.0-2.el9"),
    Waiting("other-name", "1-1", "2-2", True),
]
"""A bug fix that follows a security fix brings it along."""
ZYPPER = """\
S | Repository       | Name    | Current Version | Available Version | Arch
--+------------------+---------+-----------------+-------------------+-------
v | Main Repository  | libzypp | 17.31.8-1.1     | 17.32.0-1.1       | x86_64
"""
APK = """\
Installed:                                Available:
busybox-binsh-1.36.1-r15                < 1.36.1-r29
lib-x-1_p2-r0                           < 1_p3-r0
"""
PACMAN = "glibc 2.39-1 -> 2.40-1\nlinux 1:6.9.1-1 -> 1:6.9.2-1 [ignored]\n"


@pytest.mark.parametrize(
    ("name", "output", "found"),
    [
        (
            "apt",
            APT,
            [
                Waiting("bash", "5.1-6ubuntu1", "5.1-6ubuntu1.1", True),
                Waiting("libc6", "2.36-9+deb12u3", "2.36-9+deb12u4"),
                Waiting("openssl", "3.0.11-1", "3.0.13-1~deb12u1", True),
            ],
        ),
        ("dnf", DNF.format(fixes=DNF_4), FIXED),
        ("dnf", DNF.format(fixes=DNF_5), FIXED),
        ("zypper", ZYPPER, [Waiting("libzypp", "17.31.8-1.1", "17.32.0-1.1")]),
        (
            "apk",
            APK,
            [Waiting("busybox-binsh", "1.36.1-r15", "1.36.1-r29"), Waiting("lib-x", "1_p2-r0", "1_p3-r0")],
        ),
        ("pacman", PACMAN, [Waiting("glibc", "2.39-1", "2.40-1"), Waiting("linux", "1:6.9.1-1", "1:6.9.2-1")]),
    ],
    ids=lambda value: value if value in ("apt", "dnf", "zypper", "apk", "pacman") else "",
)
def test_what_they_print(name: str, output: str, found: list[Waiting]) -> None:
    (manager,) = [manager for manager in managers.MANAGERS if manager.name == name]
    assert waiting.read(manager, output) == tuple(found)
    assert waiting.read(manager, "") == ()


def test_every_manager_can_be_asked() -> None:
    for manager in managers.MANAGERS:
        script = waiting.script(manager)
        assert manager.refresh in script
        assert script.startswith("export LC_ALL=C\n"), "what is read is English"


def test_apk_looks_at_the_indexes_that_were_fetched() -> None:
    """It keeps them by URL, and those are at the URLs of the copied configuration."""
    *_, look = waiting.script(apk.MANAGER).splitlines()
    assert look == f"{apk.APK} version -v -l '<'"
