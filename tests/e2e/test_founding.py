"""The founding tree, from the shipped specs as they are: a CentOS, GNOME on it, an Ubuntu; from stand-in mirrors, and
booted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.boot.qemu import boot
from tests.e2e.conftest import BOOT_SECONDS, BUILD_SECONDS, prompts
from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.mirrors.apt import Mirror, ubuntu
from tests.mirrors.rpm import HELPER, centos
from tests.mirrors.tiny import serve, signer

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of a CentOS mirror, and the fingerprint of its key."""
    root, work = tmp_path_factory.mktemp("mirror"), tmp_path_factory.mktemp("work")
    with signer() as key:
        centos(root, work, key)
    shutil.rmtree(work)
    with serve(root) as url:
        yield url, key.fingerprint
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """An Ubuntu mirror."""
    work = tmp_path_factory.mktemp("archive")
    with ubuntu(work) as made:
        yield made
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def tree(mirror: tuple[str, str], archive: Mirror, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """centos, gnome and ubuntu, with their qcow2 in ``out``."""
    told = {"centos": mirror, "ubuntu": (archive.url, archive.fingerprint)}
    values = [(f"{node}:mirror={url}", f"{node}:fingerprint={key}") for node, (url, key) in told.items()]
    params = [word for pair in values for value in pair for word in ("--param", value)]
    with project_of(tmp_path_factory.mktemp("founding")) as made:
        bundles = ("--bundle", "qcow2", "--output", str(made.home / "out"))
        made.sfvm("build", "centos", "gnome", "ubuntu", *params, *bundles, timeout=BUILD_SECONDS)
        yield made


def image(tree: Project, node: str) -> Path:
    return tree.home / "out" / f"{node}-qcow2" / f"{node}.qcow2"


def test_centos_boots_to_a_login_prompt(tree: Project) -> None:
    console = boot(image(tree, "centos"), "bios", until=["login:"], deadline=BOOT_SECONDS)
    assert "CentOS Stream 9" in console
    assert prompts("centos", console)
    assert "graphical.target" not in console


def test_gnome_reaches_the_graphical_target(tree: Project) -> None:
    wanted = ["Started gdm.service", "Reached target graphical.target", "login:"]
    assert prompts("gnome", boot(image(tree, "gnome"), "uefi", until=wanted, deadline=BOOT_SECONDS))


def test_ubuntu_boots_to_a_login_prompt(tree: Project) -> None:
    console = boot(image(tree, "ubuntu"), "uefi", until=["login:"], deadline=BOOT_SECONDS)
    assert "Ubuntu 24.04 LTS" in console
    assert prompts("ubuntu", console)


def test_the_guest_goes_on_with_the_archive(tree: Project, archive: Mirror) -> None:
    assert tree.cat("ubuntu", "/etc/apt/sources.list.d/ubuntu.sources") == (
        f"Types: deb\nURIs: {archive.url}\nSuites: noble noble-updates noble-security\nComponents: main universe\n"
        "Signed-By: /etc/apt/keyrings/ubuntu.asc /etc/apt/keyrings/ubuntu-1.asc\n"
    )
    assert "BEGIN PGP PUBLIC KEY BLOCK" in tree.cat("ubuntu", "/etc/apt/keyrings/ubuntu-1.asc")


def test_the_guest_goes_on_with_the_mirror(tree: Project, mirror: tuple[str, str]) -> None:
    own = tree.cat("gnome", "/etc/yum.repos.d/sfvm.repo")
    assert f"baseurl={mirror[0]}/9-stream/AppStream/$basearch/os\n" in own
    assert own.count("gpgcheck=1\n") == 2 + own.count("repo_gpgcheck=1\n")
    assert "BEGIN PGP PUBLIC KEY BLOCK" in tree.cat("gnome", "/etc/pki/rpm-gpg/RPM-GPG-KEY-sfvm")
    assert "enabled=1" not in tree.cat("gnome", "/etc/yum.repos.d/centos.repo")


def test_files_have_the_owners_that_their_packages_declare(tree: Project) -> None:
    (number,) = re.findall(r"^messagebus:[^:]*:(\d+):", tree.cat("centos", "/etc/group"), re.MULTILINE)
    mode, user, group = tree.owned("centos", HELPER)
    assert (mode, user, group) == (0o4750, 0, int(number))


def test_the_packages_are_known(tree: Project) -> None:
    names = {
        node: {package[0] for package in json.loads(tree.sfvm("show", node, "--json").stdout)["packages"]}
        for node in ("centos", "gnome")
    }
    assert {"centos-stream-release", "kernel-core", "dnf"} <= names["centos"]
    assert names["gnome"] - names["centos"] == {"gdm", "gnome-shell"}
