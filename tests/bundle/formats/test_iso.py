"""A live CD: what xorriso and isoinfo say of it, and machines that boot it."""

from __future__ import annotations

import os
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from sfvm.appliance.image import Image
from sfvm.boot.qemu import boot
from sfvm.bundle.stage import Stage
from sfvm.errors import BundleError, Place
from tests.bundle.formats.trees import stage, tree, verb
from tests.guests.project import Project
from tests.peers.tools import tool

PLACE = Place(Path("format.xml"), 1)
CONFIG = """\
set timeout=0
serial --unit=0 --speed=115200
terminal_output serial
echo THIS-IS-GRUB
linux /live/vmlinuz console=ttyS0 panic=-1
initrd /live/initrd.img
boot
"""
BOOTABLE = """<iso volume="LIVE" as="a.iso">
<put of="vmlinuz" at="/live/vmlinuz"/><put of="initrd.img" at="/live/initrd.img"/>
<put of="*.cfg" at="/boot/grub/grub.cfg"/></iso>"""


def run(*words: str | Path, status: int = 0) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def filled(directory: Path, name: str = "out", kernel: bytes = b"kernel", initrd: bytes = b"initrd") -> Stage:
    made = replace(stage(directory, tree(directory / f"{name}.tar"), name), identity=uuid.NAMESPACE_OID)
    for artifact, content in (("vmlinuz", kernel), ("initrd.img", initrd), ("grub.cfg", CONFIG.encode())):
        made.new(artifact, PLACE).write_bytes(content)
    return made


def test_a_bootable_cd_is_what_xorriso_and_isoinfo_read(tmp_path: Path) -> None:
    made = filled(tmp_path)
    verb(tmp_path, BOOTABLE).make(made)
    assert [path.name for path in made.directory.iterdir()] == made.made == ["a.iso"]
    image = made.directory / "a.iso"
    told = run(tool("xorriso"), "-indev", image, "-report_el_torito", "plain", "-report_system_area", "plain")
    for words in ("boot img :   1  BIOS  y", "boot img :   2  UEFI  y", "grub2-mbr", "EFI boot partition"):
        assert words in told, told
    assert "Volume id: LIVE" in run(tool("isoinfo"), "-d", "-i", image)
    listing = run(tool("isoinfo"), "-f", "-R", "-i", image).splitlines()
    assert {"/live/vmlinuz", "/live/initrd.img", "/boot/grub/grub.cfg", "/boot/grub/efi.img"} <= set(listing)
    assert run(tool("isoinfo"), "-R", "-i", image, "-x", "/live/initrd.img") == "initrd"
    with image.open("r+b") as file:
        file.seek(16 * 2048)
        file.write(bytes(2048))  # the volume descriptor (ECMA-119, 8.4)
    assert "Volume id: LIVE" not in subprocess.run(
        [tool("isoinfo"), "-d", "-i", image], capture_output=True, text=True
    ).stdout  # fmt: skip


def test_a_cd_with_data_is_for_cloud_init(tmp_path: Path) -> None:
    made = stage(tmp_path, tree(tmp_path / "tree.tar"))
    made.new("user-data", PLACE).write_text("#cloud-config\n")
    verb(tmp_path, '<iso volume="cidata" as="seed.iso"><put of="user-data" at="/user-data"/></iso>').make(made)
    assert run("blkid", "-p", "-s", "LABEL", "-o", "value", made.directory / "seed.iso").strip() == "cidata"
    with pytest.raises(BundleError, match="too long"):
        verb(tmp_path, f'<iso volume="{"x" * 33}" as="b"><put of="*" at="/x"/></iso>').make(made)


def test_equal_artifacts_are_equal_cds(tmp_path: Path) -> None:
    found = set()
    for name in ("one", "two"):
        made = filled(tmp_path, name)
        os.utime(made.directory / "vmlinuz", (5 * len(name), len(found)))
        verb(tmp_path, BOOTABLE).make(made)
        found.add((made.directory / "a.iso").read_bytes())
        if name == "one":
            run("sleep", "2.1")  # FAT counts two seconds
    assert len(found) == 1


@pytest.fixture(scope="module")
def live(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CD with the appliance's kernel and an initramfs that says so."""
    directory = tmp_path_factory.mktemp("live")
    root = directory / "root"
    (root / "bin").mkdir(parents=True)
    (root / "dev").mkdir()
    busybox = Path(run("sh", "-c", "command -v busybox").strip())
    (root / "bin/busybox").write_bytes(busybox.read_bytes())
    (root / "init").write_text(
        '#!/bin/busybox sh\nbusybox() { /bin/busybox "$@"; }\n'
        "busybox dmesg -n 1\nbusybox echo I-AM-ALIVE\nbusybox sleep 1\nbusybox poweroff -f\n"
    )
    for path in (root / "init", root / "bin/busybox"):
        path.chmod(0o755)
    run("tar", "-C", root, "--format=posix", "--sort=name", "--numeric-owner", "-cf", directory / "root.tar", ".")
    first = stage(directory, directory / "root.tar", "initrd")
    verb(directory, '<cpio as="initrd.img" compression="gzip"/>').make(first)
    made = filled(
        directory, kernel=(image.directory / "kernel").read_bytes(),
        initrd=(first.directory / "initrd.img").read_bytes(),
    )  # fmt: skip
    verb(directory, BOOTABLE).make(made)
    return made.directory / "a.iso"


@pytest.mark.vm
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_a_usb_stick_of_it_boots(live: Path, firmware: str) -> None:
    told = boot(live, firmware, until=["THIS-IS-GRUB", "I-AM-ALIVE"], deadline=150)
    assert told.index("THIS-IS-GRUB") < told.index("I-AM-ALIVE")


@pytest.mark.vm
@pytest.mark.parametrize("firmware", [(), ("-bios", "/usr/share/ovmf/OVMF.fd")], ids=["bios", "uefi"])
def test_a_cd_of_it_boots(live: Path, firmware: tuple[str, ...]) -> None:
    words = (tool("qemu-system-x86_64"), "-nodefaults", "-accel", "tcg", "-cpu", "max", "-m", "768", "-display", "none")
    told = run(*words, "-no-reboot", "-vga", "std", "-serial", "stdio", "-cdrom", live, "-boot", "d", *firmware)
    assert "I-AM-ALIVE" in told


STATUS = "Package: {}\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"


@pytest.mark.vm
@pytest.mark.parametrize("package", ["live-boot", "dracut-live"])
def test_the_formats_of_live_systems_say_what_their_initramfs_wants(
    project: Project, package: str, tmp_path: Path
) -> None:
    """The node has files in place of a kernel, its modules and the package."""
    modules = "".join(f"kernel/{name}.ko:\n" for name in ("squashfs", "overlay", "loop", "isofs"))
    project.write(
        "live",
        "busybox",
        '<file path="/boot/vmlinuz-1">kernel</file>',
        '<file path="/boot/initrd.img-1">initrd</file>',
        f'<file path="/lib/modules/1/modules.dep">{modules}</file>',
        f'<file path="/var/lib/dpkg/status">{STATUS.format(package)}</file>',
    )
    project.sfvm("build", "live")
    project.sfvm(
        "bundle", "live", "iso", "netboot", "--set", "root=squashfs", "--set", "console=ttyS0", "--output", "out"
    )
    image = project.home / "out/live-iso/live.iso"
    config = run(tool("isoinfo"), "-R", "-i", image, "-x", "/boot/grub/grub.cfg")
    script = (project.home / "out/live-netboot/boot.ipxe").read_text()
    if package == "live-boot":
        assert (
            "  linux /live/vmlinuz boot=live components console=ttyS0,115200n8\n  initrd /live/initrd.img\n" in config
        )
        assert " boot=live fetch=${cwduri}live.squashfs ip=dhcp console=ttyS0,115200n8\n" in script
        assert script.splitlines()[1] == "isset ${cwduri} || goto unknown"
    else:
        assert "root=live:CDLABEL=SFVM_LIVE rd.live.dir=/live rd.live.squashimg=filesystem.squashfs console" in config
        assert " root=live:${cwduri}live.squashfs ip=dhcp console=ttyS0,115200n8\n" in script
    run("grub-script-check", written(tmp_path / "grub.cfg", config))
    squashfs = tmp_path / "filesystem.squashfs"
    run(tool("xorriso"), "-osirrox", "on", "-indev", image, "-extract", "/live/filesystem.squashfs", squashfs)
    assert "/bin/busybox" in run(tool("unsquashfs"), "-ll", squashfs)


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
