"""Guests under a real Xen: its hypervisor runs in an emulated machine, and its xl starts what sfvm has bundled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers.hypervisor import Xen, xen

pytestmark = pytest.mark.e2e

BUNDLES = {
    "pv-pygrub": ("xen-pv", {}),
    "pv-grub": ("xen-pv", {"disk": "whole", "boot": "grub"}),
    "pvh-pygrub": ("xen-pvh", {"disk": "whole"}),
    "pvh-grub": ("xen-pvh", {"boot": "grub"}),
    "pvh-direct": ("xen-pvh", {"boot": "direct", "decompress": "yes"}),
}
SECONDS = 1200.0
"""Two minutes on a quiet machine."""


@pytest.fixture(scope="module")
def hypervisor(tmp_path_factory: pytest.TempPathFactory) -> Xen:
    return xen(tmp_path_factory.mktemp("hypervisor"))


@pytest.fixture(scope="module")
def guest(hypervisor: Xen, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """The node ``guest``: a small filesystem with Debian's kernel, and an initramfs that tells what it sees."""
    version = hypervisor.version
    with project_of(tmp_path_factory.mktemp("xen")) as made:
        (made.specs / "vmlinuz").write_bytes(hypervisor.kernel.read_bytes())
        (made.specs / "config").write_bytes(hypervisor.config.read_bytes())
        (made.specs / "initrd").write_bytes(hypervisor.initramfs())
        (made.specs / "guest.xml").write_text(
            f"""<filesystem xmlns="urn:sfvm:1" name="guest">
  <disk size="128M" format="ext4"/>
  <base><busybox/></base>
  <steps>
    <copy from="vmlinuz" to="/boot/vmlinuz-{version}"/>
    <copy from="config" to="/boot/config-{version}"/>
    <copy from="initrd" to="/boot/initrd.img-{version}"/>
    <file path="/lib/modules/{version}/modules.dep">kernel/drivers/net/xen-netfront.ko:
</file>
  </steps>
</filesystem>
"""
        )
        made.sfvm("build", "guest", timeout=SECONDS)
        yield made


@pytest.fixture(scope="module")
def said(hypervisor: Xen, guest: Project) -> dict[str, str]:
    directories = {}
    for name, (kind, settings) in BUNDLES.items():
        words = [word for pair in settings.items() for word in ("--set", "=".join(pair))]
        guest.sfvm("bundle", "guest", kind, *words, "--output", str(guest.home / name), timeout=SECONDS)
        directories[name] = guest.home / name / f"guest-{kind}"
    broken = guest.home / "broken"
    broken.mkdir()
    for path in directories["pvh-pygrub"].iterdir():
        if path.suffix == ".img":  # xl starts nothing from a disk without a filesystem
            with (broken / path.name).open("wb") as file:
                file.truncate(1 << 20)
        else:
            (broken / path.name).write_bytes(path.read_bytes())
    return hypervisor.run({**directories, "broken": broken}, SECONDS)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_guest_starts_from_its_disk(said: dict[str, str], name: str) -> None:
    kind, _ = BUNDLES[name]
    text = said[name]
    assert f"GUEST: {kind.removeprefix('xen-').upper()} /dev/xvda1 on hvc0" in text, text
    assert " ro console=hvc0" in text
    assert " / ext4 " in text
    assert "GUEST: end" in text


def test_a_disk_without_a_filesystem_starts_nothing(said: dict[str, str]) -> None:
    assert "GUEST" not in said["broken"]
    assert "error" in said["broken"]
