"""A real Debian: built as a user would, bundled, and booted under both firmwares."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from sfvm.boot.qemu import boot
from sfvm.bundle.format import Formats
from tests.e2e.conftest import BOOT_SECONDS, BUILD_SECONDS, SPECS, prompts
from tests.guests.project import Project

pytestmark = pytest.mark.e2e
MARK = "mark: derived-node-was-here"
LACKS = {
    "ami-instance-store": "--set user=",
    "digitalocean": "cloud-init",
    "iso": "live-boot",
    "vagrant-libvirt": "openssh-server",
    "vagrant-virtualbox": "openssh-server",
    "vagrant-vmware": "openssh-server",
    "virtualbox": "ahci",
}
"""What a format is left out for: keys of the user's, packages, what Debian's cloud kernel does not have. In
``test_live.py`` a Debian has it all."""


@pytest.fixture(scope="module")
def disk(debian: Project) -> Path:
    debian.sfvm("bundle", "marked", "qcow2", "--output", str(debian.home / "out"), timeout=BUILD_SECONDS)
    return debian.home / "out" / "marked-qcow2" / "marked.qcow2"


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_the_same_image_boots_to_a_login_prompt(disk: Path, firmware: str) -> None:
    console = boot(disk, firmware, until=[MARK, "login:"], deadline=BOOT_SECONDS)
    assert MARK in console
    assert prompts("debian", console)


SEALED = {
    "extlinux": ("bios", '<root/><boot loader="extlinux" console="tty0 ttyS0"/>'),
    "verity": (
        "uefi",
        '<esp/><root format="erofs" verity="yes"/><data size="+200M" mount="/var"/>'
        '<boot loader="uki" console="tty0 ttyS0"/>',
    ),
    "luks": (
        "uefi",
        '<esp/><luks><root size="1500M"/></luks><luks name="swapped"><swap size="64M"/></luks>'
        '<boot loader="systemd-boot" console="tty0 ttyS0"/>',
    ),
}
PASSPHRASE = "correct horse"
LAYOUTS = {
    "systemd-boot": ("uefi", '<esp/><root/><boot loader="systemd-boot" console="tty0 ttyS0"/>'),
    "uki": ("uefi", '<esp/><root/><boot loader="uki" console="tty0 ttyS0"/>'),
    "btrfs": (
        "bios",
        '<bios-boot/><data size="300M" mount="/boot"/><root format="btrfs" size="+300M"><subvolume path="/home"/>'
        '</root><boot loader="grub" console="tty0 ttyS0"/>',
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_loaders_and_roots_boot(debian: Project, name: str) -> None:
    starts(debian, "marked", name, *LAYOUTS[name])


@pytest.fixture(scope="module")
def sealed(debian: Project) -> Project:
    debian.sfvm("build", "sealed", "--specs", str(SPECS), timeout=BUILD_SECONDS)
    return debian


@pytest.mark.parametrize("name", SEALED)
def test_what_wants_more_of_a_guest_boots(sealed: Project, name: str) -> None:
    starts(sealed, "sealed", name, *SEALED[name])


def starts(debian: Project, node: str, name: str, firmware: str, parts: str) -> None:
    """Bundle *node* with *parts* on a GPT as the format *name*, and boot it."""
    own = debian.home / "layouts"  # not where formats are looked for: the others are tested as all that there are
    own.mkdir(exist_ok=True)
    head = f'<format xmlns="urn:sfvm:1" name="{name}"><summary>{name}</summary><layout table="gpt">{parts}</layout>'
    (own / f"{name}.xml").write_text(f'{head}<convert to="qcow2" as="disk.qcow2"/></format>')
    given = {"SFVM_FORMATS": str(own), "PASSPHRASE": PASSPHRASE}
    secret = ("--secret", "passphrase=env:PASSPHRASE") if "<luks" in parts else ()
    words = ("bundle", node, name, "--output", "out", *secret)
    debian.sfvm(*words, timeout=BOOT_SECONDS, environment=given)
    image = debian.home / "out" / f"{node}-{name}" / "disk.qcow2"
    answers = {"Please unlock disk root": PASSPHRASE, "Please enter passphrase for disk": PASSPHRASE}
    console = boot(image, firmware, until=["login:"], deadline=BOOT_SECONDS, answers=answers)
    assert prompts("debian", console)


@pytest.fixture(scope="module")
def platforms(debian: Project) -> tuple[Path, dict[str, str]]:
    """All formats of the Debian: where they are, and why others were left out."""
    words = ("bundle", "marked", "all", "--set", "level=1", "--output", str(debian.home / "all"))
    done = debian.sfvm(*words, timeout=BUILD_SECONDS)
    return debian.home / "all", {event["format"]: event["reason"] for event in done.all("BundleSkipped")}


def test_every_format_is_made_or_says_why_not(platforms: tuple[Path, dict[str, str]]) -> None:
    where, skipped = platforms
    made = {path.name.removeprefix("marked-") for path in where.iterdir()}
    assert made | set(skipped) == set(Formats().names())
    assert skipped.keys() == LACKS.keys()
    assert [name for name, lacking in LACKS.items() if lacking not in skipped[name]] == []
    for bundle in where.iterdir():
        if max(path.stat().st_size for path in bundle.iterdir()) > 2 << 30:
            continue  # sha256sum reads holes: half a minute each; smaller disks are checked elsewhere
        subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=bundle, check=True)


@pytest.mark.parametrize(
    ("file", "firmware", "controller", "nic"),
    [
        ("vmdk/marked.vmdk", "bios", "pvscsi", "vmxnet3"),
        ("ami/marked.img", "uefi", "nvme", "virtio-net-pci"),
        ("proxmox/marked.qcow2", "bios", "virtio-scsi", "virtio-net-pci"),
    ],
)
def test_it_boots_as_its_platform_would_boot_it(
    platforms: tuple[Path, dict[str, str]], file: str, firmware: str, controller: str, nic: str
) -> None:
    disk = platforms[0] / f"marked-{file}"
    wanted = [MARK, "login:"]
    boot(disk, firmware, until=wanted, deadline=BOOT_SECONDS, controller=controller, nic=nic)


def test_a_second_build_starts_no_appliance(debian: Project) -> None:
    again = debian.sfvm("build", "debian")
    assert not again.all("ApplianceStarted")
    assert not again.all("NodeStarted")


def test_the_packages_are_known(debian: Project) -> None:
    shown = json.loads(debian.sfvm("show", "debian", "--json").stdout)
    names = {package[0] for package in shown["packages"]}
    assert {"systemd", "initramfs-tools"} <= names
    assert any(name.startswith("linux-image-") for name in names)


def test_a_changed_line_of_the_leaf_builds_only_the_leaf(debian: Project) -> None:
    plan = debian.sfvm("plan", "marked", "--specs", str(SPECS), "--param", "mark=other", "--json")
    entries = {entry["name"]: entry["action"] for entry in json.loads(plan.stdout)["entries"]}
    assert entries == {"debian": "hit", "marked": "build"}


def test_the_manifest_of_the_bundle_names_what_is_in_it(disk: Path) -> None:
    content = json.loads((disk.parent / "manifest.json").read_text())
    assert content["node"] == "marked"
    assert content["artifacts"]["marked.qcow2"]["size"] == disk.stat().st_size
    assert any(package[0] == "grub-pc-bin" for package in content["packages"])
