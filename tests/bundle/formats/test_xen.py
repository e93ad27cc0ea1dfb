"""Guests for Xen, judged by Xen's own xl, pygrub and readnotes."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.appliance.image import Image
from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers import xen
from tests.peers.tools import tool

pytestmark = pytest.mark.vm

VERSION = "6.1.0-test"
INITRD = f"initrd.img-{VERSION}"
OPTIONS = "".join(f"CONFIG_{name}=y\n" for name in ("XEN_PV", "XEN_PVH", "XEN_PVHVM", "HVC_XEN"))


@pytest.fixture(scope="module")
def guest(seed: Path, image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A tiny node ``guest`` with a real kernel (the helper VM's) and an initramfs that names the driver of disks."""
    with project_of(tmp_path_factory.mktemp("xen"), seed) as made:
        shutil.copy(image.directory / "kernel", made.specs / "vmlinuz")
        driver = made.home / "kernel" / "xen-blkfront.ko"
        driver.parent.mkdir()
        driver.write_bytes(b"a module")
        (made.specs / "initrd").write_bytes(
            subprocess.run(
                ["cpio", "--create", "--format=newc", "--quiet"],
                cwd=made.home, input=b"kernel/xen-blkfront.ko\n", capture_output=True, check=True,
            ).stdout
        )  # fmt: skip
        made.write(
            "guest",
            "busybox",
            f'<copy from="vmlinuz" to="/boot/vmlinuz-{VERSION}"/>',
            f'<copy from="initrd" to="/boot/{INITRD}"/>',
            f'<file path="/boot/config-{VERSION}">{OPTIONS}</file>',
            f'<file path="/lib/modules/{VERSION}/modules.dep">kernel/drivers/net/xen-netfront.ko:\n</file>',
        )
        made.sfvm("build", "guest")
        yield made


def bundled(guest: Project, output: str, *words: str) -> Path:
    """The directory of the bundles that ``sfvm bundle guest`` makes with *words*."""
    directory = guest.home / output
    if not directory.exists():
        settings = [word for pair in words if "=" in pair for word in ("--set", pair)]
        formats = [word for word in words if "=" not in word]
        guest.sfvm("bundle", "guest", *formats, *settings, "--output", str(directory))
    return directory


@pytest.fixture(scope="module")
def alone(guest: Project) -> Path:
    """With the defaults: the filesystem is the disk, pygrub loads the kernel."""
    return bundled(guest, "alone", "xen-pv", "xen-pvh", "memory=512", "vcpus=2", "bridge=br1")


@pytest.fixture(scope="module")
def whole(guest: Project) -> Path:
    """A partitioned disk as qcow2; the kernel is beside it, unpacked."""
    words = ("disk=whole", "boot=direct", "decompress=yes", "disk_format=qcow2", "mac=00:16:3e:01:02:03")
    return bundled(guest, "whole", "xen-pv", "xen-pvh", *words)


def kernel(guest: Project) -> bytes:
    return (guest.specs / "vmlinuz").read_bytes()


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_xl_takes_a_guest_that_pygrub_boots(alone: Path, tmp_path: Path, kind: str) -> None:
    found = xen.xl(alone / f"guest-xen-{kind}" / "guest.cfg", tmp_path)
    assert (found["c_info"]["type"], found["c_info"]["name"]) == (kind, "guest")
    assert found["b_info"]["max_memkb"] == 512 << 10
    assert found["b_info"]["max_vcpus"] == 2
    assert found["b_info"]["bootloader"] == "pygrub"
    disk = {"pdev_path": "/var/lib/xen/images/guest.img", "vdev": "xvda1", "format": "raw", "readwrite": 1}
    assert found["disks"] == [disk]
    assert [nic["bridge"] for nic in found["nics"]] == ["br1"]


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_xl_takes_a_guest_that_is_booted_directly(whole: Path, tmp_path: Path, kind: str) -> None:
    directory = whole / f"guest-xen-{kind}"
    found = xen.xl(directory / "guest.cfg", tmp_path)
    build = found["b_info"]
    assert found["c_info"]["type"] == kind
    assert build["kernel"] == "/var/lib/xen/images/guest.vmlinuz"
    assert build["ramdisk"] == "/var/lib/xen/images/guest.initrd"
    assert [(disk["vdev"], disk["format"]) for disk in found["disks"]] == [("xvda", "qcow2")]
    assert found["nics"][0]["mac"] == "00:16:3e:01:02:03"
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", directory / "guest.qcow2", raw], check=True)
    table = subprocess.run([tool("sfdisk"), "--dump", raw], capture_output=True, text=True, check=True).stdout
    start = int(table.split("start=")[1].split(",")[0]) * 512
    words = [tool("blkid"), "-p", "-O", str(start), "-s", "UUID", "-o", "value", raw]
    root = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert build["cmdline"] == f"root=UUID={root} ro console=hvc0"


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('type = "pvh"', 'type = "pvx"', "Invalid domain type"),
        ("format=raw", "format=vmdk", "unknown value for format"),
        ("guest.img' ]", "guest.img'", "syntax error"),
    ],
)
def test_xl_refuses_what_it_does_not_know(alone: Path, tmp_path: Path, before: str, after: str, message: str) -> None:
    text = (alone / "guest-xen-pvh" / "guest.cfg").read_text()
    assert before in text
    (tmp_path / "broken.cfg").write_text(text.replace(before, after))
    with pytest.raises(xen.Refused, match=message):
        xen.xl(tmp_path / "broken.cfg", tmp_path)


@pytest.mark.parametrize("disk", ["alone", "whole"])
def test_pygrub_takes_the_kernel_out_of_the_disk(
    guest: Project, tmp_path: Path, disk: str, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(disk) / "guest-xen-pv"
    image = directory / "guest.img"
    if disk == "whole":
        image = tmp_path / "guest.img"
        subprocess.run(["qemu-img", "convert", "-O", "raw", directory / "guest.qcow2", image], check=True)
    found = xen.pygrub(image, tmp_path)
    assert found["kernel"] == kernel(guest)
    assert found["ramdisk"] == (guest.specs / "initrd").read_bytes()
    assert found["args"].endswith(b" ro console=hvc0")


def test_pygrub_refuses_a_disk_without_a_configuration(alone: Path, tmp_path: Path) -> None:
    image = tmp_path / "guest.img"
    shutil.copy(alone / "guest-xen-pv" / "guest.img", image)
    subprocess.run([tool("debugfs"), "-w", "-R", "rm /boot/grub/grub.cfg", image], check=True, capture_output=True)
    with pytest.raises(xen.Refused):
        xen.pygrub(image, tmp_path)


def test_readnotes_finds_how_xen_starts_the_unpacked_kernel(guest: Project, whole: Path, tmp_path: Path) -> None:
    directory = whole / "guest-xen-pvh"
    assert {"ENTRY", "XEN_VERSION", "PHYS32_ENTRY"} <= xen.notes(directory / "guest.vmlinuz")
    assert (directory / "guest.initrd").read_bytes() == (guest.specs / "initrd").read_bytes()
    with pytest.raises(xen.Refused):
        xen.notes(guest.specs / "vmlinuz")  # compressed
    broken = bytearray((directory / "guest.vmlinuz").read_bytes())
    broken[:4] = bytes(4)
    (tmp_path / "broken").write_bytes(broken)
    with pytest.raises(xen.Refused):
        xen.notes(tmp_path / "broken")


def started(vmlinux: Path) -> str:
    """What QEMU says, with the kernel's own messages, when it starts *vmlinux* at its PVH entry, as Xen does."""
    words = [tool("qemu-system-x86_64"), "-machine", "q35,accel=tcg", "-m", "512", "-nodefaults", "-display", "none",
             "-serial", "stdio", "-no-reboot", "-kernel", vmlinux, "-append", "console=ttyS0 panic=-1"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, timeout=120)
    return (done.stdout + done.stderr).decode(errors="replace")


def test_qemu_starts_the_unpacked_kernel_at_its_pvh_entry(whole: Path, tmp_path: Path) -> None:
    vmlinux = whole / "guest-xen-pvh" / "guest.vmlinuz"
    assert "Kernel command line: console=ttyS0 panic=-1" in started(vmlinux)
    broken = bytearray(vmlinux.read_bytes())
    note = broken.index(struct.pack("<I4s", 18, b"Xen"))  # PHYS32_ENTRY (xen/include/public/elfnote.h)
    broken[note] = 99
    (tmp_path / "broken").write_bytes(broken)
    assert "without PVH ELF Note" in started(tmp_path / "broken")


def test_a_pv_guest_with_grub_needs_a_kernel_that_grub_unpacks(guest: Project, tmp_path: Path) -> None:
    words = ("bundle", "guest", "xen-pv", "--set", "boot=grub", "--output", str(tmp_path / "out"))
    assert "a kernel compressed with" in guest.sfvm(*words, status=1).stderr
    pvh = bundled(guest, "grub", "xen-pvh", "boot=grub") / "guest-xen-pvh"
    found = xen.xl(pvh / "guest.cfg", tmp_path)
    assert found["b_info"]["kernel"] == "/usr/lib/grub-xen/grub-i386-xen_pvh.bin"
    assert "cmdline" not in found["b_info"]


def test_a_node_without_xen_in_its_kernel_is_refused(guest: Project, tmp_path: Path) -> None:
    guest.write("plain", "guest", f'<file path="/boot/config-{VERSION}">CONFIG_EFI_STUB=y\n</file>')
    guest.sfvm("build", "plain")
    done = guest.sfvm("bundle", "plain", "xen-pvh", "--output", str(tmp_path / "out"), status=1)
    assert "CONFIG_XEN_PVH" in done.stderr


@pytest.mark.parametrize("firmware", ["seabios", "ovmf"])
def test_xl_takes_a_guest_with_firmware(guest: Project, tmp_path: Path, firmware: str) -> None:
    directory = bundled(guest, firmware, "xen-hvm", f"firmware={firmware}") / "guest-xen-hvm"
    found = xen.xl(directory / "guest.cfg", tmp_path)
    assert found["c_info"]["type"] == "hvm"
    assert found["b_info"]["type.hvm"]["bios"] == firmware
    assert found["b_info"]["type.hvm"]["serial"] == "pty"
    assert [disk["vdev"] for disk in found["disks"]] == ["hda"]
    table = subprocess.run([tool("sfdisk"), "--dump", directory / "guest.img"], capture_output=True, text=True)
    assert "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" in table.stdout  # the EFI system partition (UEFI, 5.3.3)
    assert (directory / "guest.img").read_bytes()[:1] == b"\xeb"  # GRUB's boot.img begins with a jump
    text = (directory / "guest.cfg").read_text()
    (tmp_path / "unknown.cfg").write_text(text.replace(f'"{firmware}"', '"coreboot"'))  # taken for a file's name
    assert "bios" not in xen.xl(tmp_path / "unknown.cfg", tmp_path)["b_info"]["type.hvm"]
    (tmp_path / "broken.cfg").write_text(text.replace('"hvm"', "hvm"))
    with pytest.raises(xen.Refused, match="syntax error"):
        xen.xl(tmp_path / "broken.cfg", tmp_path)
