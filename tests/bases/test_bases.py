"""The bases that need little: what they read, what they tell, what they refuse."""

import hashlib
import io
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest

from sfvm.bases.busybox import static
from sfvm.bases.mmdebstrap import MERGED_USR
from sfvm.errors import SpecError
from sfvm.keys import armor
from tests.verbs import Directory, Maker, host

BODY = b"\x04\x00\x00\x00\x00\x16 any other bytes"
KEY = bytes([0xC6, len(BODY)]) + BODY


def test_empty(make: Maker, guest: Directory) -> None:
    base = make("<empty/>", "bases")
    base.populate(guest, host(guest.root))
    assert list(guest.root.iterdir()) == []
    assert (base.inputs(), base.facts(), base.title()) == ({}, {}, "empty")
    assert base.prepare(host(guest.root)) == ()


def pack(path: Path, name: str) -> str:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_archive(make: Maker, guest: Directory) -> None:
    digest = pack(make.specs / "r.tar.gz", "etc/file")
    base = make(f'<archive from="r.tar.gz" sha256="{digest.upper()}" distribution="alpine" release="3.20"/>', "bases")
    known = {"distribution": "alpine", "release": "3.20"}
    assert base.inputs() == {"sha256": digest, "facts": known}
    assert base.facts() == known
    assert base.prepare(host(guest.root)) == ()


def test_archive_of_another_content(make: Maker) -> None:
    pack(make.specs / "r.tar", "x")
    assert "is not what the spec expects" in make.refused(f'<archive from="r.tar" sha256="{"0" * 64}"/>', "bases").what


@pytest.mark.parametrize("name", ["/etc/passwd", "../x"])
def test_archive_with_members_outside(make: Maker, name: str) -> None:
    digest = pack(make.specs / "r.tar", name)
    base = make(f'<archive from="r.tar" sha256="{digest}"/>', "bases")
    with pytest.raises(SpecError, match=r"r\.tar is refused: member"):
        base.prepare(host(make.home))


def test_an_archive_that_unpacks_to_more_than_the_disk(make: Maker) -> None:
    path = make.specs / "r.tar.gz"
    path.parent.mkdir()
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("zeros")
        member.size = 2 << 20
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    base = make(f'<archive from="r.tar.gz" sha256="{hashlib.sha256(path.read_bytes()).hexdigest()}"/>', "bases")
    with pytest.raises(SpecError, match="unpacks to more than 1 MiB") as caught:
        base.prepare(host(make.home, size=1 << 20))
    assert "disk" in str(caught.value.hint)


@pytest.mark.parametrize("kind", ["archive", "image"])
def test_sources_stay_in_the_directory_of_the_spec(make: Maker, kind: str) -> None:
    (make.home / "outside").write_bytes(b"")
    error = make.refused(f'<{kind} from="../outside" sha256="{"0" * 64}"/>', "bases")
    assert "leaves the spec's directory" in error.what


def words(make: Maker, guest: Directory, xml: str) -> list[str]:
    guest.write("/etc/hostname", b"appliance\n")
    guest.write("/etc/resolv.conf", b"nameserver 169.254.2.3\n")
    make(xml, "bases").populate(guest, host(guest.root))
    command = guest.commands[-1]
    assert command.place == "appliance"
    assert command.network
    assert command.packages
    *_, install, sync = command.script.splitlines()
    assert sync == "sync --file-system /sysroot", "an error of writing is an error of the base"
    nosync, tool, *found = shlex.split(install)
    assert (nosync, tool) == ("/usr/lib/sfvm/nosync", "mmdebstrap")
    return found


def test_mmdebstrap(make: Maker, guest: Directory) -> None:
    found = words(make, guest, '<mmdebstrap suite="bookworm" mirror=""/>')
    assert found[-2:] == ["bookworm", "/sysroot"], "a mirror left out is the tool's own"
    assert {"--mode=root", "--format=directory", "--variant=minbase", "--components=main"} <= set(found)
    assert f"--hook-dir={MERGED_USR}" in found, "usr-is-merged instead of usrmerge and perl"
    assert not any(word.startswith(("--include", "--keyring")) for word in found)
    assert not guest.exists("/etc/hostname"), "the appliance's"
    assert not guest.exists("/etc/resolv.conf"), "the appliance's"


def test_mmdebstrap_with_everything(make: Maker, guest: Directory) -> None:
    attributes = 'variant="apt" components="main contrib" include="systemd udev" mirror="http://m.invalid/d"'
    found = words(make, guest, f'<mmdebstrap suite="noble" {attributes} keyring="/k.gpg" distribution="ubuntu"/>')
    assert found[-3:] == ["noble", "/sysroot", "http://m.invalid/d"]
    assert {"--variant=apt", "--components=main,contrib", "--include=systemd,udev", "--keyring=/k.gpg"} <= set(found)


def test_mmdebstrap_of_a_mirror_with_keys_of_its_own(make: Maker, guest: Directory) -> None:
    make.specs.mkdir()
    (make.specs / "a.asc").write_bytes(armor(KEY))
    attributes = 'mirror="http://m.invalid/u" components="main universe" distribution="ubuntu"'
    found = words(make, guest, f'<mmdebstrap suite="noble" {attributes} pockets="updates security" keys="a.asc"/>')
    assert found[-3:] == ["noble", "/sysroot", "/run/sfvm/packages/ubuntu.sources"]
    key, last = guest.commands
    assert "base64" in key.script
    assert last.script.splitlines()[2:8] == [
        "cat >/run/sfvm/packages/ubuntu.sources <<'END'",
        "Types: deb",
        "URIs: http://m.invalid/u",
        "Suites: noble noble-updates noble-security",
        "Components: main universe",
        "Signed-By: /etc/apt/keyrings/ubuntu.asc",
    ]
    hooks = [word for word in found if "-hook=" in word]
    (setup,) = [hook for hook in hooks if "/etc/apt/keyrings" in hook]
    assert setup.startswith("--setup-hook=")
    assert setup.endswith('cp /etc/apt/keyrings/ubuntu.asc "$1/etc/apt/keyrings/"')
    moved = [number for number, hook in enumerate(hooks) if hook.endswith("/ubuntu.sources") and " mv" not in hook]
    kept = [number for number, hook in enumerate(hooks) if "/var/lib/apt/lists" in hook]
    assert moved < kept, "indexes belong to the source as it stays"


def test_mmdebstrap_of_pockets(make: Maker, guest: Directory) -> None:
    found = words(make, guest, '<mmdebstrap suite="x" mirror="http://m.invalid/u" pockets="updates"/>')
    assert found[-2:] == ["deb http://m.invalid/u x main", "deb http://m.invalid/u x-updates main"]


@pytest.mark.parametrize("attributes", ['pockets="updates"', 'keys="a.asc"'])
def test_keys_and_pockets_are_of_a_mirror(make: Maker, attributes: str) -> None:
    make.specs.mkdir()
    (make.specs / "a.asc").write_bytes(armor(KEY))
    assert "those of a mirror" in make.refused(f'<mmdebstrap suite="x" {attributes}/>', "bases").what


@pytest.mark.parametrize("keys", ["", ' keys="a.asc"'])
def test_mmdebstrap_of_a_mirror_by_https(make: Maker, guest: Directory, keys: str) -> None:
    """It passes the proxy in the open; what the guest keeps is what the spec says."""
    make.specs.mkdir()
    (make.specs / "a.asc").write_bytes(armor(KEY))
    found = words(make, guest, f'<mmdebstrap suite="x" mirror="https://m.invalid:443/u" pockets="updates"{keys}/>')
    assert "https://m.invalid" not in " ".join(word for word in found if not word.startswith("--customize-hook"))
    (hook,) = [word.partition("=")[2] for word in found if "s,http://m.invalid:443,https://m.invalid," in word]
    guest.write("/etc/apt/sources.list", b"deb http://m.invalid:443/u x main\ndeb http://n.invalid/u x main\n")
    subprocess.run(["sh", "-e", "-c", hook, "sh", guest.root], check=True)
    kept = guest.read("/etc/apt/sources.list")
    assert kept == b"deb https://m.invalid/u x main\ndeb http://n.invalid/u x main\n"
    (keep,) = [word for word in found if "/var/lib/apt/lists" in word]
    assert found.index(f"--customize-hook={hook}") < found.index(keep), "indexes belong to the source as it stays"


def test_what_counts_for_mmdebstrap(make: Maker) -> None:
    base = make('<mmdebstrap suite="trixie"/>', "bases")
    assert base.facts() == {"distribution": "debian", "release": "trixie"}
    others = [
        'components="main contrib"',
        'include="a"',
        'mirror="m"',
        'keyring="/k"',
        'distribution="d"',
        'variant="apt"',
        'mirror="m" pockets="p"',
        f'mirror="m" key-url="http://a/k" fingerprint="{"0" * 40}"',
    ]
    inputs = [str(make(f'<mmdebstrap suite="trixie" {attribute}/>', "bases").inputs()) for attribute in ["", *others]]
    inputs.append(str(make('<mmdebstrap suite="sid"/>', "bases").inputs()))
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize(
    "attributes",
    [
        'suite="--setup-hook=reboot"',
        'suite="sid" include="a --hook"',
        'suite="sid" include="a,b"',
        'suite="sid" components="main;x"',
        'suite="sid" mirror="--dry-run"',
        'suite="sid" mirror="deb [trusted=yes] http://h/d sid main"',
        'suite="sid" pockets="updates" mirror="[trusted=yes]http://h/d"',
        'suite="sid" mirror="http://h/d&#10;Trusted: yes"',
        'suite="sid" mirror="m" pockets="-x"',
        'suite="sid" distribution="-x"',
    ],
)
def test_nothing_looks_like_an_option(make: Maker, attributes: str) -> None:
    make.refused(f"<mmdebstrap {attributes}/>", "bases")


def test_busybox(make: Maker, guest: Directory) -> None:
    base = make("<busybox/>", "bases")
    base.populate(guest, host(guest.root))
    assert static(guest.at("/bin/busybox"))
    assert guest.at("/bin/busybox").stat().st_mode & 0o777 == 0o755
    assert guest.at("/tmp").stat().st_mode & 0o7777 == 0o1777
    digest = hashlib.sha256(guest.read("/bin/busybox")).hexdigest()
    assert base.inputs() == {"busybox": {"sha256": digest}}
    assert base.facts() == {"distribution": "busybox"}


def test_a_busybox_that_needs_libraries(make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/bin/sh")
    error = make.refused("<busybox/>", "bases")
    assert error.what == "/bin/sh is linked dynamically"
    assert "busybox-static" in str(error.hint)


def test_no_busybox(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert "busybox-static" in str(make.refused("<busybox/>", "bases").hint)


def test_static(tmp_path: Path) -> None:
    assert not static(Path("/bin/sh").resolve())
    (tmp_path / "script").write_text("#!/bin/sh\n" + "#" * 100)
    assert not static(tmp_path / "script")
    (tmp_path / "cut").write_bytes(Path("/bin/sh").read_bytes()[:20])
    assert not static(tmp_path / "cut")
