"""What we ship: every spec is valid, and every fragment means something in every distribution that we know."""

import subprocess
from pathlib import Path

import pytest

from sfvm.document import Element
from sfvm.spec import expansion, parser
from sfvm.spec.library import Library
from sfvm.tree import node

SPECS = Path(__file__).parents[2] / "specs"
LIBRARY = Library([SPECS])
KNOWN = ("debian", "ubuntu", "centos", "fedora", "opensuse-leap", "arch", "alpine")
FRAGMENTS = ("cloud-init", "grow-root", "hardening", "serial-console", "server", "sshd", "timezone", "users")


@pytest.mark.parametrize("name", LIBRARY.names())
def test_a_shipped_spec_has_a_key(name: str) -> None:
    assert node.resolve(LIBRARY, [name], {})[-1].name == name


def steps(fragment: str, distribution: str, home: Path, arguments: str = "") -> list[Element]:
    """What a fragment comes to in a guest of the *distribution*."""
    path = home / "specs" / "a.xml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'<filesystem xmlns="urn:sfvm:1" name="a" parent="b"><steps><include spec="common/{fragment}.xml">{arguments}'
        "</include></steps></filesystem>"
    )
    facts = {"distribution": distribution, "release": "1"}
    expanded = expansion.expand(parser.load(path), {}, facts, library_dirs=[SPECS]).expanded
    assert expanded is not None
    return [step for part in expanded.children if part.tag == "steps" for step in part.children]


def installed(found: list[Element]) -> list[str]:
    return [name for step in found if step.tag == "packages" for name in step.words("install")]


@pytest.mark.parametrize("fragment", FRAGMENTS)
@pytest.mark.parametrize("distribution", KNOWN)
def test_a_fragment_everywhere(fragment: str, distribution: str, tmp_path: Path) -> None:
    assert steps(fragment, distribution, tmp_path)


@pytest.mark.parametrize(
    ("distribution", "grow"),
    [("debian", "cloud-guest-utils"), ("centos", "cloud-utils-growpart"), ("opensuse-leap", "growpart")],
)
def test_cloud_init(distribution: str, grow: str, tmp_path: Path) -> None:
    arguments = '<with name="datasources" value="Ec2, None"/><with name="user" value="me"/>'
    found = steps("cloud-init", distribution, tmp_path, arguments)
    assert installed(found) == ["cloud-init", grow]
    assert [step.text for step in found if step.tag == "file"] == [
        "datasource_list: [Ec2, None]\n",
        "system_info:\n  default_user:\n    name: me\n",
    ]


@pytest.mark.parametrize("distribution", ["arch", "opensuse-leap", "centos"])
def test_cloud_init_is_enabled(distribution: str, tmp_path: Path) -> None:
    """Not by every distribution's package; and of the names of all versions, those that there are."""
    (run,) = [step for step in steps("cloud-init", distribution, tmp_path) if step.tag == "run"]
    units = tmp_path / "usr" / "lib" / "systemd" / "system"
    units.mkdir(parents=True)
    (units / "cloud-final.service").touch()
    script = f'systemctl() {{ echo "$@"; }}\n{run.text.replace("/usr/lib", str(tmp_path / "usr" / "lib"))}'
    done = subprocess.run(["sh", "-e", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "enable cloud-final.service\n"


def test_opensuses_kernel_makes_an_initramfs() -> None:
    """Its scripts do so where there is an /etc/fstab."""
    (made,) = node.resolve(LIBRARY, ["opensuse"], {})
    titles = [step.title for step in made.steps]
    assert titles.index("file /etc/fstab") < titles.index("packages install kernel-default-base")


@pytest.mark.parametrize("name", ["rocky", "almalinux", "fedora"])
def test_every_release_that_may_be_chosen_has_its_key(name: str) -> None:
    (param,) = [param for param in LIBRARY.get(name).params if param.name == "release"]
    for release in param.choices:
        (made,) = node.resolve(LIBRARY, [name], {"release": release})
        assert made.inputs["base"]["inputs"]["keys"]["files"]


@pytest.mark.parametrize(
    ("distribution", "package", "service"),
    [
        ("debian", "openssh-server", "ssh.service"),
        ("ubuntu", "openssh-server", "ssh.service"),
        ("fedora", "openssh-server", "sshd.service"),
        ("arch", "openssh", "sshd.service"),
        ("alpine", "openssh openssh-server-pam", "sshd"),
    ],
)
def test_sshd(distribution: str, package: str, service: str, tmp_path: Path) -> None:
    found = steps("sshd", distribution, tmp_path)
    assert installed(found) == package.split()
    assert found[-1].attributes["enable"] == service


@pytest.mark.parametrize("name", [name for name in LIBRARY.names() if name.endswith("-server")])
def test_a_server_as_it_is_asked_for(name: str) -> None:
    asked = {"admin": "ann", "key": "ssh-ed25519 AAAA", "zone": "Europe/Berlin", "hardening": "yes"}
    told = {f"{name}:{param}": value for param, value in asked.items()}
    plain, titles = ([step.title for step in node.resolve(LIBRARY, [name], given)[-1].steps] for given in ({}, told))
    more = [title for title in titles if title not in plain]
    assert {"user ann", "file /etc/sudoers.d/ann", "timezone Europe/Berlin"} < set(more)
    assert "file /etc/sysctl.d/60-hardening.conf" in more


def test_an_admin_with_a_key(tmp_path: Path) -> None:
    arguments = '<with name="name" value="ann"/><with name="key" value="ssh-ed25519 AAAA"/>'
    _, user, sudo = steps("users", "debian", tmp_path, arguments)
    assert user.attributes["ssh-key"] == "ssh-ed25519 AAAA"
    assert sudo.text == "ann ALL=(ALL:ALL) NOPASSWD: ALL\n"
    assert sudo.attributes["mode"] == "0440"


def test_ubuntu_is_asked_for_what_it_has(tmp_path: Path) -> None:
    """systemd-resolved is a package of its own from 24.04 on only."""
    for suite, separate in (("jammy", False), ("noble", True)):
        (ubuntu,) = node.resolve(LIBRARY, ["ubuntu"], {"suite": suite})
        titles = [step.title for step in ubuntu.steps]
        assert ("packages install systemd-resolved" in titles) is separate
