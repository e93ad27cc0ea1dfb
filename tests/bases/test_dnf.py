"""The base ``dnf``, without an appliance: what it tells dnf, what it keeps in the guest, what it refuses."""

import configparser
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from sfvm.bases.dnf import OURS, OWNED, REPOSITORIES, TRUSTED, _database
from sfvm.openpgp import fingerprints
from tests.verbs import Directory, Maker, host

SHIPPED = Path(__file__).parents[2] / "specs/keys"
KEY = SHIPPED / "centos.asc"
LIST = 'repositories="baseos=9-stream/BaseOS/$basearch/os appstream=9-stream/AppStream/$basearch/os"'
HEAD = 'distribution="centos" release="9" url="http://m.invalid/c"'


class Guest(Directory):
    """The directory, in which the keys are where the appliance has them."""

    def capture(self, command):  # type: ignore[no-untyped-def]
        assert command.place == "appliance"
        return "the keys\n" if command.script.startswith("cat /run/sfvm/packages/keys/") else super().capture(command)


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    (tmp_path / "guest").mkdir()
    return Guest(tmp_path / "guest")


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    make = Maker(tmp_path)
    make.specs.mkdir()
    (make.specs / "c.asc").write_bytes(KEY.read_bytes())
    return make


def dnf(more: str, head: str = HEAD, repositories: str = LIST, keys: str = 'keys="c.asc"') -> str:
    return f"<dnf {head} {repositories} {keys} {more}/>"


def told(make: Maker, guest: Guest, xml: str) -> tuple[list[str], configparser.ConfigParser]:
    """The words of the command dnf, and its configuration."""
    make(xml, "bases").populate(guest, host(guest.root))
    keys, command = guest.commands
    assert keys.packages and command.packages and command.place == "appliance"
    assert command.script.endswith("\nsync --file-system /sysroot\n"), "an error of writing is an error of the base"
    (line,) = [line for line in command.script.splitlines() if " dnf -y " in line]
    config = configparser.ConfigParser(interpolation=None)
    config.read_string(re.search(r"<<'END'\n(.*?)END\n", command.script, re.DOTALL)[1])  # type: ignore[index]
    return shlex.split(line), config


def test_what_dnf_is_told(make: Maker, guest: Guest) -> None:
    words, config = told(
        make, guest, dnf('include="bash dnf=4.14" groups="core" mirror="" fingerprint="" key-url="/KEY"')
    )
    assert words[-4:] == ["install", "bash", "dnf-4.14", "@core"]
    assert {"--installroot=/sysroot", "--releasever=9", "KERNEL_INSTALL_BYPASS=1"} <= set(words)
    assert config.sections() == ["main", "baseos", "appstream"]
    main, baseos = config["main"], config["baseos"]
    assert (main["gpgcheck"], main["install_weak_deps"], main["tsflags"]) == ("1", "0", "")
    assert main["module_platform_id"] == "platform:el9"
    assert baseos["baseurl"] == "http://m.invalid/c/9-stream/BaseOS/$basearch/os"
    assert baseos["gpgcheck"] == "1"
    assert re.fullmatch(r"file:///run/sfvm/packages/keys/\w+\.asc", baseos["gpgkey"])
    assert list(guest.root.iterdir()) == [], "the repositories are those that the guest's packages bring"


def test_documentation_is_left_out_on_request(make: Maker, guest: Guest) -> None:
    assert told(make, guest, dnf('include="bash" docs="no"'))[1]["main"]["tsflags"] == "nodocs"


def test_https_goes_through_the_proxy_in_the_open(make: Maker, guest: Guest) -> None:
    head = HEAD.replace("http://m.invalid", "https://m.invalid")
    config = told(make, guest, dnf('include="bash"', head))[1]
    assert config["baseos"]["baseurl"].startswith("http://m.invalid:443/c/9-stream")


def test_with_a_mirror_the_guest_goes_on_with_it(make: Maker, guest: Guest) -> None:
    guest.write(f"{REPOSITORIES}/centos.repo", b"[baseos]\nmetalink=https://x\nenabled = 1\n[crb]\nenabled=0\n# \xff\n")
    config = told(make, guest, dnf('include="bash" mirror="https://other.invalid/c/"'))[1]
    assert config["sfvm-appstream"]["baseurl"] == "http://other.invalid:443/c/9-stream/AppStream/$basearch/os"
    assert guest.read(f"{REPOSITORIES}/centos.repo") == (
        b"[baseos]\nmetalink=https://x\nenabled=0\n[crb]\nenabled=0\n# \xff\n"
    )
    own = configparser.ConfigParser(interpolation=None)
    own.read_string(guest.read(f"{REPOSITORIES}/{OURS}").decode())
    assert own.sections() == ["sfvm-baseos", "sfvm-appstream"]
    baseos = own["sfvm-baseos"]
    assert baseos["baseurl"] == "https://other.invalid/c/9-stream/BaseOS/$basearch/os"
    assert (baseos["gpgcheck"], baseos["gpgkey"]) == ("1", f"file://{TRUSTED}")
    assert guest.read(TRUSTED) == b"the keys\n"


def test_what_counts(make: Maker) -> None:
    base = make(dnf('include="bash"'), "bases")
    assert base.facts() == {"distribution": "centos", "release": "9"}
    assert base.title() == "dnf centos 9"
    assert base.prepare(host(make.home)) == ()
    more = [
        "",
        'groups="core"',
        'docs="no"',
        'mirror="http://m.invalid/c"',
        f'fingerprint="{"0" * 40}" key-url="http://k"',
    ]
    inputs = [str(make(dnf(f'include="bash" {attributes}'), "bases").inputs()) for attributes in more]
    inputs.append(str(make(dnf('include="bash dnf"'), "bases").inputs()))
    inputs += [
        str(make(dnf('include="bash"', head), "bases").inputs())
        for head in (HEAD.replace('"9"', '"10"'), HEAD.replace("centos", "rocky"), HEAD.replace("m.inv", "n.inv"))
    ]
    inputs.append(str(make(dnf('include="bash"', repositories='repositories="a=b"'), "bases").inputs()))
    (make.specs / "c.asc").write_bytes((SHIPPED / "rocky-9.asc").read_bytes())
    inputs.append(str(make(dnf('include="bash"'), "bases").inputs()))
    assert len(set(inputs)) == len(inputs)


@pytest.mark.parametrize(
    ("xml", "what"),
    [
        (dnf('include="bash"', keys=""), "dnf has no keys"),
        (dnf(""), "dnf installs nothing"),
        (dnf('include="bash --installroot=/"'), "'--installroot=/' is no name"),
        (dnf('groups="@core"'), "'@core' is no name"),
        (dnf('include="bash"', HEAD.replace('"9"', '"-9"')), "'-9' is no name"),
        (dnf('include="bash"', HEAD.replace("http://m.invalid/c", "/c")), "url='/c' is no http or https URL"),
        (dnf('include="bash" mirror="file:///etc"'), "mirror='file:///etc' is no http or https URL"),
        (dnf('include="bash"', repositories='repositories="baseos"'), "'baseos' is not NAME=PATH"),
        (dnf('include="bash"', repositories='repositories="a]=b"'), "'a]=b' is not NAME=PATH"),
        (dnf('include="bash"', repositories='repositories="a=b;c"'), "'a=b;c' is not NAME=PATH"),
    ],
)
def test_what_is_refused(make: Maker, xml: str, what: str) -> None:
    assert what in make.refused(xml, "bases").what


@pytest.mark.parametrize(
    ("distribution", "release", "path"),
    [
        ("centos", "9", "/var/lib/rpm"),
        ("rocky", "9.4", "/var/lib/rpm"),
        ("centos", "10", "/usr/lib/sysimage/rpm"),
        ("fedora", "42", "/usr/lib/sysimage/rpm"),
        ("fedora", "rawhide", "/usr/lib/sysimage/rpm"),
    ],
)
def test_where_the_database_is(distribution: str, release: str, path: str) -> None:
    assert _database(distribution, release) == path


def test_the_list_of_the_keys_that_ship_is_right() -> None:
    name, listed = "", set()
    for line in (SHIPPED / "README.md").read_text().splitlines():
        if line.startswith("| ") and (prints := re.findall(r"`([0-9A-F]{40})`", line)):
            name = (re.findall(r"^\| `(\S+)`", line) or [name])[0]
            listed |= {(name, print) for print in prints}
    found = {(path.name, print) for path in SHIPPED.glob("*.asc") for print in fingerprints(path.read_bytes())}
    assert listed
    assert listed <= found


def test_what_is_owned_rightly_keeps_its_capabilities(tmp_path: Path) -> None:
    """chown(2) takes them, also when it changes nothing."""
    files = {"mine": "100750 apache:apache", "theirs": "104510 root:apache", "gone": "100644 root:mail"}
    for name in ("mine", "theirs"):
        (tmp_path / name).touch()
    told = "\n".join(f"{owner} {tmp_path}/{name}" for name, owner in files.items())
    tools = {
        "systemd-sysusers": ":",
        "rpm": f"echo '{told}'",
        "stat": "case $3 in */mine) echo apache:apache ;; *) echo root:root ;; esac",
        "getcap": 'echo "$1 cap_setuid,cap_setgid=ep"',
        **{name: f'echo {name} "$@" >>{tmp_path}/told' for name in ("chown", "chmod", "setcap")},
    }
    (tmp_path / "bin").mkdir()
    for name, text in tools.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    script = OWNED.split("<<'END'\n")[1].split("END\n")[0]
    environment = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    subprocess.run(["sh", "-e", "-c", script], env=environment, check=True)
    assert (tmp_path / "told").read_text().splitlines() == [
        f"chown root:apache {tmp_path}/theirs",
        f"chmod 4510 {tmp_path}/theirs",
        f"setcap cap_setuid,cap_setgid=ep {tmp_path}/theirs",
    ]
