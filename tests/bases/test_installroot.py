"""Bases zypper and pacman: what they read and tell, and what runs in the appliance. See also test_stand_ins."""

from pathlib import Path
from typing import Any

import pytest

from sfvm.errors import SpecError
from tests.mirrors.tiny import signer
from tests.verbs import Directory, Maker, host

ZYPPER = 'distribution="opensuse" release="15.6" url="https://d.example/"'


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    with signer() as made:
        return made.public(tmp_path_factory.mktemp("key") / "a.asc").read_bytes()


@pytest.fixture
def trusting(make: Maker, key: bytes) -> Maker:
    """The spec has a key beside it, a.asc."""
    make.specs.mkdir()
    (make.specs / "a.asc").write_bytes(key)
    return make


def zypper(make: Maker, more: str = "") -> Any:
    return make(f'<zypper {ZYPPER} repositories="oss=leap/oss" include="zypper" keys="a.asc" {more}/>', "bases")


def pacman(make: Maker, more: str = "") -> Any:
    return make(f'<pacman url="https://p.example/arch" {more}/>', "bases")


def section(text: str, name: str) -> dict[str, str]:
    """The settings of the section *name* of the first configuration in a script."""
    block = text.partition(f"[{name}]\n")[2].partition("\n[")[0].partition("END")[0]
    pairs = (row.split("=", 1) for row in block.splitlines() if "=" in row)
    return {left.strip(): right.strip() for left, right in pairs}


def test_zypper_checks_index_and_packages(trusting: Maker) -> None:
    script = zypper(trusting).script(["/keys/k.asc"])
    found = section(script, "oss")
    assert {found[name] for name in ("gpgcheck", "repo_gpgcheck", "pkg_gpgcheck")} == {"1"}
    assert (found["baseurl"], found["gpgkey"]) == ("http://d.example:443/leap/oss", "file:///keys/k.asc")
    assert "gpg-auto-import-keys" not in script
    assert "no-gpg-checks" not in script


def test_zypper_installs_what_is_named_and_patterns(trusting: Maker) -> None:
    script = zypper(trusting, 'patterns="base x11"').script(["/k"])
    assert " install --no-recommends --download-in-advance zypper 'pattern()=base' 'pattern()=x11' || " in script


def test_zypper_goes_to_the_mirror_where_there_is_one(trusting: Maker) -> None:
    there, here = zypper(trusting, 'mirror=""'), zypper(trusting, 'mirror="http://m.example/suse"')
    assert there.repositories[0].url == "https://d.example/leap/oss"
    assert here.repositories[0].url == "http://m.example/suse/leap/oss"
    assert here.inputs() != there.inputs()
    assert here.facts() == {"distribution": "opensuse", "release": "15.6"}


def test_pacman_requires_signatures_of_packages(make: Maker) -> None:
    text = pacman(make, 'repositories="core extra multilib"').configuration()
    assert section(text, "options")["SigLevel"] == "Required DatabaseOptional"
    assert text.count("SigLevel") == 1
    assert [section(text, name)["Server"] for name in ("core", "multilib")] == [
        "http://p.example:443/arch/$repo/os/$arch"
    ] * 2


def test_pacman_takes_a_mirror_of_another_layout(make: Maker) -> None:
    assert pacman(make, 'mirror="http://m.example/$arch/$repo/"').server == "http://m.example/$arch/$repo"


def test_pacman_trusts_named_keys_alone_or_archs_packagers(trusting: Maker) -> None:
    named, archs = pacman(trusting, 'keys="a.asc"'), pacman(trusting)
    assert "populate" not in named.script(("/k",))
    assert "populate /usr/share/keyrings" in archs.script(())
    assert named.inputs() != archs.inputs()


def test_the_secret_of_the_key_of_the_moment_is_gone_before_anything_is_installed(make: Maker) -> None:
    script = pacman(make).script(())
    assert script.index("private-keys-v1.d") < script.index("-Sy --needed base")


def test_what_was_written_is_synced_and_nothing_stays(trusting: Maker) -> None:
    for script in (zypper(trusting).script(["/k"]), pacman(trusting).script(())):
        assert script.endswith("sync --file-system /sysroot\n")
        assert "trap 'rm -rf " in script
        assert "/usr/lib/sfvm/nosync " in script


@pytest.mark.parametrize(
    ("xml", "what"),
    [
        (f'<zypper {ZYPPER} repositories="oss=leap/oss" include="zypper"/>', "zypper has no keys"),
        (f'<zypper {ZYPPER} repositories="oss=leap/oss" keys="a.asc"/>', "zypper installs nothing"),
        (f'<zypper {ZYPPER} repositories="leap/oss" include="zypper" keys="a.asc"/>', "is not NAME=PATH"),
        (f'<zypper {ZYPPER} repositories="o=a]b" include="zypper" keys="a.asc"/>', "is not NAME=PATH"),
        (f'<zypper {ZYPPER} repositories="o=a" include="-x" keys="a.asc"/>', "zypper include: '-x' is no name"),
        (f'<zypper {ZYPPER} mirror="/srv" repositories="o=a" include="x" keys="a.asc"/>', "zypper mirror='/srv' is no"),
        ('<pacman url="ftp://p.example"/>', "pacman url='ftp://p.example' is no http or https URL"),
        ('<pacman url="http://p.example/&#10;[x]"/>', "is no http or https URL"),
        ('<pacman url="http://p.example" include="--help"/>', "is no name"),
        ('<pacman url="http://p.example" repositories="core]"/>', "is no name"),
    ],
)
def test_refused(trusting: Maker, xml: str, what: str) -> None:
    assert what in trusting.refused(xml, "bases").what


def test_a_mirrors_key_is_trusted_by_its_fingerprint_alone(trusting: Maker, tmp_path: Path) -> None:
    assert not pacman(trusting, 'mirror="http://m.example" key-url="http://m.example/k" fingerprint=""').keys


@pytest.fixture
def alpine(make: Maker) -> Any:
    make.specs.mkdir()
    (make.specs / "a.rsa.pub").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    return make('<apk release="v3.22" url="https://d.example/alpine" rsa-keys="a.rsa.pub"/>', "bases")


def test_apk_wants_its_program_on_the_host(alpine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpecError, match="there is no apk on this machine") as caught:
        alpine.prepare(host(tmp_path))
    assert "apk-tools" in (caught.value.why or "")
    assert "<archive " in (caught.value.hint or "")
    (tmp_path / "apk").touch(mode=0o755)
    assert alpine.prepare(host(tmp_path)) == ()


def test_apk_finds_keys_and_repositories_in_the_guest(alpine: Any, guest: Directory, tmp_path: Path) -> None:
    alpine.populate(guest, host(tmp_path))
    assert guest.read("/etc/apk/repositories").split() == [
        b"https://d.example/alpine/v3.22/main",
        b"https://d.example/alpine/v3.22/community",
    ]
    assert guest.read("/etc/apk/keys/a.rsa.pub").startswith(b"-----BEGIN")
    (command,) = guest.commands
    assert command.packages
    assert "http://d.example:443/alpine/v3.22/main\n" in command.script
    assert "--allow-untrusted" not in command.script
