"""Repositories: the configuration of each manager, and that nothing gets in without a key."""

from __future__ import annotations

import base64
import hashlib

import pytest

from sfvm.errors import StepError
from sfvm.guest import Command
from sfvm.keys import DIRECTORY, armor
from sfvm.openpgp import fingerprints
from tests.verbs import Directory, Maker

BODY = b"\x04\x00\x00\x00\x00\x16 any other bytes"
KEY = bytes([0xC6, len(BODY)]) + BODY
PRINT = fingerprints(KEY)[0]
PATH = f"{DIRECTORY}/{hashlib.sha256(armor(KEY)).hexdigest()[:16]}.asc"
RSA = "-----BEGIN PUBLIC KEY-----\nMIIB\n-----END PUBLIC KEY-----\n"
URL = "http://a.example/debian"


class Web(Directory):
    """A guest whose network has the key."""

    def capture(self, command: Command) -> str:
        assert command.packages
        return base64.b64encode(KEY).decode()


@pytest.fixture
def web(guest: Directory, make: Maker) -> Web:
    make.specs.mkdir(exist_ok=True)
    (make.specs / "a.asc").write_bytes(armor(KEY))
    (make.specs / "two.asc").write_bytes(armor(KEY))
    (make.specs / "a.rsa.pub").write_text(RSA)
    return Web(guest.root)


def added(make: Maker, web: Web, program: str, attributes: str) -> list[str]:
    """The script that a guest with *program* runs for a repository."""
    web.write(program, b"")
    make(f'<repository name="a" url="{URL}" {attributes}/>').run(web)
    command = web.commands[-1]
    assert command.packages, "it sees the keys"
    assert not command.network
    return command.script.splitlines()


def test_apt(make: Maker, web: Web) -> None:
    lines = added(make, web, "/usr/bin/apt-get", 'suites="x x-updates" components="main b" keys="a.asc two.asc"')
    assert web.read("/etc/apt/sources.list.d/a.sources").decode() == (
        f"Types: deb\nURIs: {URL}\nSuites: x x-updates\nComponents: main b\n"
        "Signed-By: /etc/apt/keyrings/a.asc /etc/apt/keyrings/a-1.asc\n"
    )
    assert lines == [
        "mkdir -p /etc/apt/keyrings",
        f"cp {PATH} /etc/apt/keyrings/a.asc; chmod 644 /etc/apt/keyrings/a.asc",
        f"cp {PATH} /etc/apt/keyrings/a-1.asc; chmod 644 /etc/apt/keyrings/a-1.asc",
    ]


def test_a_flat_repository_of_apt(make: Maker, web: Web) -> None:
    added(make, web, "/usr/bin/apt-get", 'suites="./" keys="a.asc"')
    assert "Components" not in web.read("/etc/apt/sources.list.d/a.sources").decode()


def test_a_key_by_its_fingerprint(make: Maker, web: Web) -> None:
    lines = added(make, web, "/usr/bin/dnf", f'key-url="http://a.example/key" fingerprint="{PRINT}"')
    assert f"cp {PATH} /etc/pki/rpm-gpg/a.asc" in lines[1]
    with pytest.raises(StepError, match="is not the key that the spec names"):
        added(make, web, "/usr/bin/dnf", f'key-url="http://a.example/key" fingerprint="{"0" * 40}"')


@pytest.mark.parametrize(("signed", "index"), [("", 1), ('signed="index"', 1), ('signed="packages"', 0)])
def test_rpm(make: Maker, web: Web, signed: str, index: int) -> None:
    added(make, web, "/usr/bin/dnf", f'{signed} keys="a.asc two.asc"')
    assert web.read("/etc/yum.repos.d/a.repo").decode() == (
        f"[a]\nname=a\nbaseurl={URL}\nenabled=1\ngpgcheck=1\nrepo_gpgcheck={index}\n"
        "gpgkey=file:///etc/pki/rpm-gpg/a.asc file:///etc/pki/rpm-gpg/a-1.asc\n"
    )


def test_zypper(make: Maker, web: Web) -> None:
    lines = added(make, web, "/usr/bin/zypper", 'keys="a.asc"')
    assert lines[-1] == "rpm --import /etc/pki/rpm-gpg/a.asc"
    assert web.read("/etc/zypp/repos.d/a.repo").decode() == (
        f"[a]\nname=a\nbaseurl={URL}\nenabled=1\ngpgcheck=1\nrepo_gpgcheck=1\n"
        "gpgkey=file:///etc/pki/rpm-gpg/a.asc\ntype=rpm-md\nautorefresh=1\n"
    )


@pytest.mark.parametrize(("signed", "level"), [("", ""), ('signed="packages"', " DatabaseOptional")])
def test_pacman(make: Maker, web: Web, signed: str, level: str) -> None:
    lines = added(make, web, "/usr/bin/pacman", f'{signed} keys="a.asc"')
    assert web.read("/etc/pacman.d/a.conf").decode() == f"[a]\nSigLevel = Required{level}\nServer = {URL}\n"
    assert lines[-2:] == [
        f"trust {PATH}",
        "grep -qxF 'Include = /etc/pacman.d/a.conf' /etc/pacman.conf || "
        "echo 'Include = /etc/pacman.d/a.conf' >>/etc/pacman.conf",
    ]
    assert "key-init" not in "\n".join(lines), "no secret key stays in the guest"


def test_apk(make: Maker, web: Web) -> None:
    lines = added(make, web, "/sbin/apk", 'rsa-keys="a.rsa.pub"')
    assert web.read("/etc/apk/keys/a.rsa.pub").decode() == RSA
    assert lines == [f"grep -qsxF {URL} /etc/apk/repositories || echo {URL} >>/etc/apk/repositories"]


@pytest.mark.parametrize(
    ("program", "attributes", "what"),
    [
        ("/usr/bin/apt-get", 'keys="a.asc"', "no place in apt's configuration"),
        ("/usr/bin/apt-get", 'suites="x" keys="a.asc"', "no place in apt's configuration"),
        ("/usr/bin/apt-get", 'suites="./" components="main" keys="a.asc"', "no place in apt's configuration"),
        ("/usr/bin/apt-get", 'suites="./" signed="packages" keys="a.asc"', "without a signed index"),
        ("/usr/bin/apt-get", 'suites="./" rsa-keys="a.rsa.pub"', "no key that this guest's"),
        ("/usr/bin/dnf", 'rsa-keys="a.rsa.pub"', "no key that this guest's"),
        ("/usr/bin/pacman", 'rsa-keys="a.rsa.pub"', "no key that this guest's"),
        ("/sbin/apk", 'keys="a.asc"', "no key that apk knows"),
        ("/sbin/apk", 'signed="packages" rsa-keys="a.rsa.pub"', "without a signed index"),
    ],
)
def test_what_a_manager_cannot_have(make: Maker, web: Web, program: str, attributes: str, what: str) -> None:
    with pytest.raises(StepError, match=what) as caught:
        added(make, web, program, attributes)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("attributes", "what"),
    [
        ("", "repository has no key"),
        ('key-url="http://a.example/key" fingerprint=""', "repository has no key"),
        ('keys="a.rsa.pub"', "a.rsa.pub is no key"),
        ('rsa-keys="a.asc"', "a.asc is no RSA key"),
        ('rsa-keys="."', "is no RSA key"),
        ('suites="[trusted=yes]" keys="a.asc"', "'[trusted=yes]' is no name of a suite"),
        ('suites="x" components="-main" keys="a.asc"', "'-main' is no name of a suite"),
    ],
)
@pytest.mark.usefixtures("web")
def test_refused(make: Maker, attributes: str, what: str) -> None:
    assert what in make.refused(f'<repository name="a" url="{URL}" {attributes}/>').what


@pytest.mark.parametrize(
    "url",
    ["ftp://a.example", "http://user:secret@a.example/", "http://a.example/ [trusted=yes]", "http://a/&#10;b", "x"],
)
@pytest.mark.usefixtures("web")
def test_no_other_address(make: Maker, url: str) -> None:
    assert "is not possible" in make.refused(f'<repository name="a" url="{url}" keys="a.asc"/>').what


@pytest.mark.usefixtures("web")
def test_inputs(make: Maker) -> None:
    xml = '<repository name="a" url="http://b" suites="c d" components="e" keys="a.asc" rsa-keys="a.rsa.pub"/>'
    step = make(xml)
    assert step.inputs() == {
        "name": "a",
        "url": "http://b",
        "suites": ["c", "d"],
        "components": ["e"],
        "index": True,
        "rsa": {"a.rsa.pub": RSA},
        "keys": {"files": [hashlib.sha256(armor(KEY)).hexdigest()], "fingerprints": []},
    }
    assert step.title() == "repository a"
