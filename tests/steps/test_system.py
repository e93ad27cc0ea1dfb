"""Steps that say how the system is: names, time, language, keys, services, accounts."""

import os
import subprocess
from pathlib import Path

import pytest

from sfvm.errors import StepError
from tests.verbs import Directory, Maker


def test_hostname(make: Maker, guest: Directory) -> None:
    guest.write("/etc/hosts", b"127.0.0.1 localhost\n127.0.1.1\told\n127.0.1.10 kept\n\xff bytes\n")
    step = make('<hostname name="web1.example.org"/>')
    step.run(guest)
    assert guest.read("/etc/hostname") == b"web1\n"
    assert guest.read("/etc/hosts") == (
        b"127.0.0.1 localhost\n127.0.1.10 kept\n\xff bytes\n127.0.1.1\tweb1.example.org web1\n"
    )
    assert step.inputs() == {"name": "web1.example.org"}


def test_hostname_without_a_hosts_file(make: Maker, guest: Directory) -> None:
    make('<hostname name="web1"/>').run(guest)
    assert guest.read("/etc/hosts") == b"127.0.0.1\tlocalhost\n127.0.1.1\tweb1\n"


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "a..b", "a b", "x" * 64])
def test_no_hostname(make: Maker, name: str) -> None:
    assert "is not possible" in make.refused(f'<hostname name="{name}"/>').what


def test_timezone(make: Maker, guest: Directory) -> None:
    guest.write("/usr/share/zoneinfo/Europe/Berlin", b"TZif")
    make('<timezone name="Europe/Berlin"/>').run(guest)
    assert str(guest.at("/etc/localtime").readlink()) == "/usr/share/zoneinfo/Europe/Berlin"
    assert guest.read("/etc/timezone") == b"Europe/Berlin\n"
    make('<timezone name="UTC"/>').run(guest)
    assert guest.read("/etc/timezone") == b"UTC\n"
    guest.write("/usr/share/zoneinfo/leapseconds", b"text")
    for name in ("leapseconds", "Europe/Berlim"):
        with pytest.raises(StepError, match=f"the guest has no time zone {name}\n"):
            make(f'<timezone name="{name}"/>').run(guest)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "Europe/../../x", "a b"])
def test_no_timezone(make: Maker, name: str) -> None:
    assert "is not possible" in make.refused(f'<timezone name="{name}"/>').what


def test_a_locale_of_the_c_library_is_only_set(make: Maker, guest: Directory) -> None:
    make('<locale name="C.UTF-8"/>').run(guest)
    assert guest.read("/etc/locale.conf") == b"LANG=C.UTF-8\n"
    assert guest.commands == []
    assert not guest.exists("/etc/default/locale")


@pytest.mark.parametrize(
    ("name", "command", "entry"),
    [
        ("en_GB.UTF-8", "localedef -i en_GB -f UTF-8 en_GB.UTF-8", "en_GB.UTF-8 UTF-8"),
        ("de_DE.UTF-8@euro", "localedef -i de_DE@euro -f UTF-8 de_DE.UTF-8@euro", "de_DE.UTF-8@euro UTF-8"),
        ("ca_ES@valencia", "localedef -i ca_ES@valencia -f ISO-8859-1 ca_ES@valencia", "ca_ES@valencia ISO-8859-1"),
    ],
)
def test_a_locale_that_is_made(make: Maker, guest: Directory, name: str, command: str, entry: str) -> None:
    guest.write("/usr/bin/localedef", b"")
    guest.write("/etc/debian_version", b"12\n")
    make(f'<locale name="{name}"/>').run(guest)
    assert guest.commands[0].script.splitlines()[0].endswith(f" || {command}")
    assert f"echo '{entry}' >>/etc/locale.gen" in guest.commands[0].script
    assert guest.read("/etc/default/locale") == f"LANG={name}\n".encode()


@pytest.mark.parametrize("there", [True, False])
def test_a_locale_of_a_package_need_not_be_made(make: Maker, guest: Directory, tmp_path: Path, there: bool) -> None:
    """Fedora's glibc-langpack-en has it; what localedef would make it from is another package's."""
    guest.write("/usr/bin/localedef", b"")
    make('<locale name="en_US.UTF-8"/>').run(guest)
    warning = "" if there else "echo locale: Cannot set LC_ALL to default locale >&2; "
    for name, text in (("locale", f"{warning}echo UTF-8"), ("localedef", f"touch {tmp_path}/made")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-e", "-c", guest.commands[0].script], env=environment, check=True)
    assert (tmp_path / "made").exists() is not there


def test_a_locale_that_cannot_be_made(make: Maker, guest: Directory) -> None:
    with pytest.raises(StepError, match="cannot make locales"):
        make('<locale name="en_GB.UTF-8"/>').run(guest)
    assert "is not possible" in make.refused('<locale name="en;reboot"/>').what


def test_keyboard(make: Maker, guest: Directory) -> None:
    make('<keyboard layout="us"/>').run(guest)
    assert guest.read("/etc/vconsole.conf") == b"KEYMAP=us\n"
    assert not guest.exists("/etc/default/keyboard")
    guest.write("/etc/debian_version", b"12\n")
    step = make('<keyboard layout="de" variant="nodeadkeys"/>')
    step.run(guest)
    assert guest.read("/etc/vconsole.conf") == b"KEYMAP=de-nodeadkeys\n"
    assert b'XKBMODEL="pc105"\nXKBLAYOUT="de"\nXKBVARIANT="nodeadkeys"\n' in guest.read("/etc/default/keyboard")
    assert step.title() == "keyboard de nodeadkeys"
    for attribute in ("layout", "variant", "model"):
        others = "" if attribute == "layout" else 'layout="us" '
        assert "is not possible" in make.refused(f'<keyboard {others}{attribute}="a&quot;$(reboot)"/>').what


def test_services_of_systemd(make: Maker, guest: Directory) -> None:
    guest.write("/usr/bin/systemctl", b"")
    step = make('<service enable="a.service b@x.service" disable="c" mask="d.timer"/>')
    step.run(guest)
    assert guest.commands[0].script.splitlines() == [
        "systemctl disable c",
        "systemctl mask d.timer",
        "systemctl enable a.service",
        "systemctl enable b@x.service",
    ]
    assert not guest.commands[0].network
    assert step.title() == "service enable a.service b@x.service, disable c, mask d.timer"


def test_services_of_openrc(make: Maker, guest: Directory) -> None:
    guest.write("/sbin/rc-update", b"")
    make('<service enable="sshd" disable="c"/>').run(guest)
    assert guest.commands[0].script.splitlines() == ["rm -f /etc/runlevels/*/c", "rc-update add sshd default"]


def test_no_services(make: Maker, guest: Directory) -> None:
    with pytest.raises(StepError, match="no service manager"):
        make('<service enable="a"/>').run(guest)
    assert "does nothing" in make.refused("<service/>").what
    assert "'--now' is no service" in make.refused('<service enable="--now x"/>').what
    assert "service a cannot be two" in make.refused('<service enable="a" mask="b a"/>').what


def script(make: Maker, guest: Directory, xml: str) -> str:
    make(xml).run(guest)
    assert not any(command.network for command in guest.commands)
    return "".join(command.script for command in guest.commands)


def test_a_user_made_by_shadow(make: Maker, guest: Directory) -> None:
    guest.write("/usr/sbin/useradd", b"")
    attributes = 'uid="1500" shell="/bin/bash" home="/srv/a b" groups="sudo adm" comment="A; B" password="$6$x"'
    text = script(make, guest, f'<user name="alice" {attributes}/>')
    options = "--uid 1500 --shell /bin/bash --comment 'A; B' --password '$6$x' --groups sudo,adm"
    assert f"useradd --create-home $group {options} --home-dir '/srv/a b' alice\n" in text
    assert f"usermod --append {options} --home '/srv/a b' alice\n" in text


def test_a_system_user(make: Maker, guest: Directory) -> None:
    guest.write("/usr/sbin/useradd", b"")
    assert "useradd --system $group   d\n" in script(make, guest, '<user name="d" system="yes"/>')


@pytest.mark.parametrize(("groups", "told"), [("root\nalice\n", ["--gid", "alice"]), ("root\nalices\n", [])])
def test_a_group_of_the_users_name_is_the_users_own(
    make: Maker, guest: Directory, tmp_path: Path, groups: str, told: list[str]
) -> None:
    """useradd refuses such a name otherwise."""
    guest.write("/usr/sbin/useradd", b"")
    text = script(make, guest, '<user name="alice"/>')
    for name, content in (("passwd", "root:x:0:0:::"), ("group", groups.replace("\n", ":x:1:\n"))):
        (tmp_path / name).write_text(content)
        text = text.replace(f"/etc/{name}", str(tmp_path / name))
    (tmp_path / "useradd").write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/told\n')
    (tmp_path / "useradd").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-e", "-c", text], env=environment, check=True)
    assert (tmp_path / "told").read_text().split() == ["--create-home", *told, "alice"]


@pytest.mark.parametrize(
    "password", ["secret", "5f4dcc3b5aa765d61d8327deb882cf99", "abJnggxhB/yWI"], ids=["clear", "md5", "des"]
)
def test_a_password_is_a_hash(make: Maker, password: str) -> None:
    assert "password is not a hash" in make.refused(f'<user name="a" password="{password}"/>').what


@pytest.mark.parametrize(
    "key", ["-----BEGIN OPENSSH PRIVATE KEY-----", "AAAA", "ssh-rsa AAAA&#10;ssh-rsa BBBB", "x y;z"]
)
def test_an_ssh_key_is_one_public_key(make: Maker, key: str) -> None:
    assert "ssh-key is not a public key" in make.refused(f'<user name="a" ssh-key="{key}"/>').what


@pytest.mark.parametrize("attribute", ['uid="-1"', 'home="home"', 'shell="bash"', 'home="/a/../.."'])
def test_other_attributes_of_a_user(make: Maker, attribute: str) -> None:
    make.refused(f'<user name="a" {attribute}/>')


def test_every_attribute_of_a_user_counts(make: Maker) -> None:
    key = "ssh-ed25519 AAAAC3Nz alice@example"
    attributes = ['uid="7"', 'shell="/x"', 'home="/h"', 'groups="g"', 'comment="c"', 'system="yes"', 'password="!"']
    attributes += [f'ssh-key="{key}"', ""]
    inputs = [str(make(f'<user name="a" {attribute}/>').inputs()) for attribute in attributes]
    assert len(set(inputs)) == len(attributes)


def test_a_group(make: Maker, guest: Directory) -> None:
    guest.write("/usr/sbin/groupadd", b"")
    text = script(make, guest, '<group name="deploy" gid="2000" system="yes"/>')
    assert text.endswith("groupadd --system --gid 2000 deploy\n")
    assert "gid='-1' is not possible" in make.refused('<group name="a" gid="-1"/>').what
