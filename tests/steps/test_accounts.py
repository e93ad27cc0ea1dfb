"""Accounts in a guest without tools: its databases as text."""

import pytest

from sfvm.errors import StepError
from tests.verbs import Directory, Maker

PASSWD = "root:x:0:0:root:/root:/bin/sh\nsvc:x:999:999::/:/bin/false\nann:x:1000:1000:Ann:/home/ann:/bin/sh\n"
GROUP = "root:x:0:\nsvc:x:999:\nann:x:1000:\nadm:x:4:svc\nwheel:x:10:\n"


@pytest.fixture
def small(guest: Directory) -> Directory:
    guest.write("/etc/passwd", PASSWD.encode())
    guest.write("/etc/group", GROUP.encode())
    guest.write("/etc/shadow", b"root:*:1::::::\n", mode=0o640)
    return guest


def added(before: str, after: bytes) -> str:
    assert after.decode().startswith(before)
    return after.decode().removeprefix(before)


def test_a_user_gets_a_group_and_a_home(make: Maker, small: Directory) -> None:
    make('<user name="bob" comment="Bob B." shell="/bin/bash"/>').run(small)
    assert added(PASSWD, small.read("/etc/passwd")) == "bob:x:1001:1001:Bob B.:/home/bob:/bin/bash\n"
    assert added(GROUP, small.read("/etc/group")) == "bob:x:1001:\n"
    assert small.read("/etc/shadow") == b"root:*:1::::::\nbob:*:::::::\n"
    assert small.at("/etc/shadow").stat().st_mode & 0o777 == 0o640
    assert small.owners["/home/bob"] == "1001:1001"
    assert small.commands == []


def test_a_user_of_the_system_has_no_home(make: Maker, small: Directory) -> None:
    make('<user name="d" system="yes" home="/var/lib/d"/>').run(small)
    assert added(PASSWD, small.read("/etc/passwd")) == "d:x:998:998::/var/lib/d:/bin/sh\n"
    assert not small.exists("/var/lib/d")


def test_numbers_that_are_taken(make: Maker, small: Directory) -> None:
    make('<group name="deploy" gid="1001"/>').run(small)
    make('<user name="bob" uid="1001"/>').run(small)
    assert added(PASSWD, small.read("/etc/passwd")) == "bob:x:1001:1002::/home/bob:/bin/sh\n"
    for element in ('<user name="eve" uid="1001"/>', '<group name="eve" gid="1001"/>', '<user name="svc" uid="0"/>'):
        with pytest.raises(StepError, match="already"):
            make(element).run(small)


def test_what_exists_is_changed_only_where_it_is_said(make: Maker, small: Directory) -> None:
    make('<user name="ann" shell="/bin/zsh" groups="adm wheel" password="$6$x"/>').run(small)
    assert small.read("/etc/passwd").decode() == PASSWD.replace("ann:/bin/sh", "ann:/bin/zsh")
    assert small.read("/etc/group").decode() == GROUP.replace(":svc\n", ":svc,ann\n").replace("10:\n", "10:ann\n")
    assert small.read("/etc/shadow") == b"root:*:1::::::\nann:$6$x:::::::\n"
    before = [small.read(f"/etc/{name}") for name in ("passwd", "group", "shadow")]
    make('<user name="ann" groups="adm" password="$6$x"/>').run(small)
    make('<group name="adm" gid="77"/>').run(small)
    assert [small.read(f"/etc/{name}") for name in ("passwd", "group", "shadow")] == before


def test_a_password_is_changed(make: Maker, small: Directory) -> None:
    make('<user name="root" password="!"/>').run(small)
    assert small.read("/etc/shadow") == b"root:!:1::::::\n"


def test_an_unknown_group(make: Maker, small: Directory) -> None:
    with pytest.raises(StepError, match="no group sudo"):
        make('<user name="ann" groups="sudo"/>').run(small)


def test_databases_that_are_missing_or_damaged(make: Maker, guest: Directory) -> None:
    guest.write("/etc/group", b"\xff\nadm\n")
    make('<user name="bob" groups="adm"/>').run(guest)
    assert guest.read("/etc/passwd") == b"bob:x:1000:1000::/home/bob:/bin/sh\n"
    assert guest.read("/etc/group") == b"\xff\nadm:::bob\nbob:x:1000:\n"
    assert guest.at("/etc/shadow").stat().st_mode & 0o777 == 0o600


def test_ssh_keys(make: Maker, small: Directory) -> None:
    keys = ["ssh-ed25519 AAAA ann@a", "ssh-rsa BBBB"]
    for key in (*keys, keys[0]):
        make(f'<user name="ann" ssh-key=" {key} "/>').run(small)
    assert small.read("/home/ann/.ssh/authorized_keys").decode().splitlines() == keys
    assert small.at("/home/ann/.ssh").stat().st_mode & 0o777 == 0o700
    assert small.at("/home/ann/.ssh/authorized_keys").stat().st_mode & 0o777 == 0o600
    assert {small.owners["/home/ann/.ssh"], small.owners["/home/ann/.ssh/authorized_keys"]} == {"1000:1000"}
    assert make('<user name="root" ssh-key="ssh-rsa A"/>').run(small) is None
    assert small.exists("/root/.ssh/authorized_keys")


@pytest.mark.parametrize("attribute", ['comment="a:b"', 'home="/a:b"', 'password="$6$:x"', 'comment="a&#10;root::0:0"'])
def test_nothing_makes_another_record(make: Maker, attribute: str) -> None:
    assert "a colon or a new line" in make.refused(f'<user name="a" {attribute}/>').what
