"""openSUSE and Arch from the shipped specs, against stand-ins of their mirrors, by their own package managers."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sfvm.repository import Repository
from tests.guests.project import Project, project
from tests.mirrors import alpine, pacman, zypper
from tests.mirrors.tiny import Signer, serve, signer

pytestmark = pytest.mark.vm


@dataclass(frozen=True)
class Mirrors:
    """At *url*: ``arch`` and ``suse``, signed by *key*; and the keys by their fingerprints, that of somebody *other*,
    too."""

    url: str
    key: Signer
    other: Signer

    def params(self, node: str, place: str) -> list[str]:
        values = {"mirror": f"{self.url}/{place}", "fingerprint": self.key.fingerprint}
        return [word for name, value in values.items() for word in ("--param", f"{node}:{name}={value}")]


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrors]:
    home = tmp_path_factory.mktemp("mirrors")
    with signer() as key, signer("other") as other:
        for name, make in (("arch", pacman.mirror), ("suse", zypper.mirror)):
            (home / name).mkdir()
            make(home / name, home / "work", key)
        for made in (key, other):
            made.public(home / f"{made.fingerprint}.asc")
        with serve(home) as url:
            yield Mirrors(url, key, other)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One user's directory for all tests, so that a node is built once."""
    with project(tmp_path_factory.mktemp("home") / "home") as made:
        yield made


def packages(home: Project, node: str) -> set[str]:
    repository = home.repository
    return {name for name, *_ in repository.manifest(repository.names()[node]).packages}


def test_arch_and_what_its_own_pacman_adds(home: Project, mirrors: Mirrors) -> None:
    home.write(
        "greeter",
        "arch",
        '<packages groups="greetings" hold="greeting"/>',
        '<packages remove="hello" unhold="greeting"/>',
    )
    home.sfvm("build", "greeter", *mirrors.params("arch", "arch"), timeout=600)
    assert {"base", "linux", "mkinitcpio"} <= packages(home, "arch")
    assert packages(home, "greeter") - packages(home, "arch") == {"greeting"}
    assert home.cat("arch", "/etc/pacman.d/mirrorlist") == f"Server = {mirrors.url}/arch/$repo/os/$arch\n"
    assert home.cat("arch", "/boot/vmlinuz-linux") == "a kernel\n"
    assert "HOOKS=(base udev" in home.cat("arch", "/boot/initramfs-linux.img")
    assert home.names("arch", "/etc/pacman.d/gnupg") == {"gpg.conf", "pubring.gpg", "trustdb.gpg"}
    assert home.names("arch", "/var/lib/pacman/sync") | home.names("arch", "/var/cache/pacman/pkg") == set()


def test_opensuse_and_what_its_own_zypper_adds(home: Project, mirrors: Mirrors) -> None:
    home.write("guest", "opensuse", '<packages install="hello=1.0"/>', '<packages remove="hello"/>')
    home.sfvm("build", "guest", *mirrors.params("opensuse", "suse"), timeout=600)
    assert {"patterns-base-minimal_base", "kernel-default-base"} <= packages(home, "opensuse")
    assert packages(home, "guest") == packages(home, "opensuse")  # with what only hello needed
    listed = home.cat("opensuse", "/etc/zypp/repos.d/repo-oss.repo").splitlines()
    where = zypper.OSS.replace("x86_64", "$basearch")
    assert {f"baseurl={mirrors.url}/suse/{where}", "pkg_gpgcheck=1", "repo_gpgcheck=1"} <= set(listed)
    assert home.cat("opensuse", "/boot/initrd-6.4.0-default").startswith('hostonly="no"\n')
    assert home.names("opensuse", "/var/cache/zypp/packages") == set()


def test_alpine_as_far_as_it_goes_without_its_packages(home: Project, tmp_path: Path) -> None:
    """From what stands in for its minirootfs, in which scripts stand in for apk and OpenRC."""
    digest = alpine.mirror(tmp_path)
    with serve(tmp_path) as url:
        home.sfvm("build", "alpine", "--param", f"mirror={url}", "--param", f"sha256={digest}")
    assert {"musl", "alpine-base", "linux-virt", "mkinitfs"} <= packages(home, "alpine")
    assert home.cat("alpine", "/etc/inittab").splitlines()[-1] == "ttyS0::respawn:/sbin/getty -L ttyS0 115200 vt100"
    assert "networking" in home.names("alpine", "/etc/runlevels/boot")
    assert home.cat("alpine", "/boot/initramfs-virt").endswith("/etc/filesystems\n")


def write(home: Project, name: str, base: str) -> None:
    """A spec that begins with *base*, in its line 5."""
    lines = [
        f'<filesystem xmlns="urn:sfvm:1" name="{name}">',
        '<param name="mirror"/>',
        '<disk size="1G" format="ext4"/>',
        "<base>",
        base,
        "</base>",
        "</filesystem>",
    ]
    (home.specs / f"{name}.xml").write_text("\n".join(lines), encoding="utf-8")


def refused(home: Project, mirrors: Mirrors, base: str) -> str:
    """The error of a node that begins with *base*."""
    write(home, "refused", base)
    done = home.sfvm("build", "refused", "--param", f"mirror={mirrors.url}", status=1, timeout=600)
    assert "refused.xml:5:1: node refused: base failed" in done.stderr
    return done.stderr


def arch(key: Signer, include: str) -> str:
    trust = f'key-url="${{mirror}}/{key.fingerprint}.asc" fingerprint="{key.fingerprint}"'
    return f'<pacman url="${{mirror}}/arch" {trust} include="{include}"/>'


def suse(key: Signer, include: str) -> str:
    trust = f'key-url="${{mirror}}/{key.fingerprint}.asc" fingerprint="{key.fingerprint}"'
    where = f'url="${{mirror}}/suse" repositories="oss={zypper.OSS}"'
    return f'<zypper distribution="opensuse" release="16.0" {where} {trust} include="{include}"/>'


def red_hat(key: Signer, include: str) -> str:
    trust = f'key-url="${{mirror}}/{key.fingerprint}.asc" fingerprint="{key.fingerprint}"'
    where = f'url="${{mirror}}/suse" repositories="oss={zypper.OSS}"'
    return f'<dnf distribution="centos" release="9" {where} {trust} include="{include}"/>'


@pytest.mark.parametrize("base", [arch, suse, red_hat])
def test_what_is_locked_is_built_again_without_the_mirror(
    home: Project, mirrors: Mirrors, base: Callable[[Signer, str], str], tmp_path: Path
) -> None:
    """With one format of locks for all package managers: keys, indexes, their signatures and packages are in it."""
    name = f"locked-{base.__name__}".replace("_", "-")
    write(home, name, base(mirrors.key, "hello"))
    given = ("--param", f"mirror={mirrors.url}")
    home.sfvm("lock", name, *given, timeout=600)
    shutil.copytree(home.home / "repository" / "downloads", tmp_path / "downloads")
    words = ("--locked", "--offline", "--repository", str(tmp_path))
    home.sfvm("build", name, *given, *words, timeout=600)
    first, second = (
        {(one.url, one.sha256, one.cached) for one in found.manifest(found.names()[name]).fetched}
        for found in (home.repository, Repository(tmp_path))
    )
    assert {url for url, *_ in first if "/hello-1.0-1" in url and url.endswith((".rpm", ".zst"))}
    assert second == {(url, sha256, True) for url, sha256, _ in first}


def test_what_others_have_signed_is_refused(home: Project, mirrors: Mirrors) -> None:
    """By none of Arch's packagers, whom the helper VM's archlinux-keyring tells; by another key than the named one."""
    archs = '<pacman url="${mirror}/arch" include="hello"/>'
    assert "invalid or corrupted database (PGP signature)" in refused(home, mirrors, archs)
    assert "Signature verification failed for repomd.xml" in refused(home, mirrors, suse(mirrors.other, "hello"))


def test_what_nobody_has_signed_is_refused(home: Project, mirrors: Mirrors) -> None:
    assert "unsigned-1.0-1-any.pkg.tar.zst.sig" in refused(home, mirrors, arch(mirrors.key, "unsigned"))
    assert "Package is not signed!" in refused(home, mirrors, suse(mirrors.key, "unsigned"))


def test_an_unknown_package_is_told_in_the_managers_words(home: Project, mirrors: Mirrors) -> None:
    assert "target not found: nonesuch" in refused(home, mirrors, arch(mirrors.key, "hello nonesuch"))
    assert "No provider of 'nonesuch' found" in refused(home, mirrors, suse(mirrors.key, "hello nonesuch"))
