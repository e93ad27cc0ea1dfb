"""Packages: the commands of each manager, and what stands in the guest meanwhile and afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sfvm.errors import StepError
from sfvm.guest import Command
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
    *update, install, remove, clean = lines(make, debian, '<packages install="a b" remove="c"/>')
    assert [line for line in update if line.endswith(" update")]
    assert install.endswith(" --no-install-recommends install a b")
    assert "--force-unsafe-io" in install
    assert remove.endswith(" --auto-remove purge c")
    assert "apt-get clean" in clean
    assert "/var/lib/apt/lists/" in clean


def test_apt_with_recommended_packages_and_upgrade(make: Maker, debian: Installing) -> None:
    *_, upgrade, install, _ = lines(make, debian, '<packages install="a" upgrade="yes" recommends="yes"/>')
    assert upgrade.endswith(" --install-recommends dist-upgrade")
    assert install.endswith(" --install-recommends install a")


def test_removal_needs_no_index(make: Maker, debian: Installing) -> None:
    remove, _ = lines(make, debian, '<packages remove="a"/>')
    assert remove.endswith(" purge a")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("/usr/bin/dnf", "dnf -y --setopt=install_weak_deps=False install a 'b>1'"),
        ("/usr/bin/zypper", "zypper -n install --no-recommends a 'b>1'"),
        ("/sbin/apk", "apk add a 'b>1'"),
        ("/usr/bin/pacman", "pacman -S --noconfirm --needed a 'b>1'"),
    ],
)
def test_other_managers(make: Maker, guest: Directory, program: str, expected: str) -> None:
    guest.write(program, b"")
    assert expected in lines(make, guest, '<packages install="a b&gt;1"/>')


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
    assert command.env == {"INITRD": "No"}, "a kernel's own hook makes none either"


def test_the_configuration_that_the_package_brings_takes_its_place(make: Maker, debian: Installing) -> None:
    """dpkg has put it beside ours, because a file was there already."""
    debian.meanwhile = lambda guest: guest.write(f"{INITRAMFS}.dpkg-dist", b"the package's\n")
    make(LATE).run(debian)
    assert debian.read(INITRAMFS) == b"the package's\n"
    assert not debian.exists(f"{INITRAMFS}.dpkg-dist")


def test_without_the_package_nothing_stays(make: Maker, debian: Installing) -> None:
    make(LATE).run(debian)
    assert not debian.exists(INITRAMFS)


def test_inputs_and_title(make: Maker) -> None:
    step = make('<packages install=" a\n b " remove="c"/>')
    assert step.inputs() == {
        "install": ["a", "b"],
        "remove": ["c"],
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
    ],
)
def test_refused(make: Maker, xml: str, what: str) -> None:
    assert what in make.refused(xml).what
