"""What is read of a guest's kernel, and what formats require of it."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from sfvm import document
from sfvm.bundle.disk.layout import Layout, Part
from sfvm.bundle.format import Recipe, check, expand, request
from sfvm.bundle.kernel import Kernel, compression, initramfs_modules, modules, options, release
from sfvm.bundle.outputs.requires import Requires
from sfvm.bundle.stage import Unfit
from sfvm.errors import Place
from tests.peers import xen
from tests.peers.tools import tool

CLOUD = Kernel(
    "6.1.0-56-cloud-amd64",
    {"XEN_PVH": "y", "VMXNET3": "m"},
    builtin=frozenset({"ext4"}),
    modules=frozenset({"vmxnet3", "virtio_blk", "vmw_pvscsi"}),
    initramfs=frozenset({"virtio_blk"}),
    compression="lz4",
)


def requires(directory: Path, attributes: str) -> Requires:
    path = directory / "format.xml"
    path.write_text(f'<requires xmlns="urn:sfvm:1" {attributes}/>')
    return Requires.parse(document.parse(path))


@pytest.mark.parametrize(
    ("attributes", "missing"),
    [
        ('initramfs="virtio_blk" driver="vmxnet3" option="XEN_PVH VMXNET3"', []),
        ('initramfs="ext4"', []),
        ('initramfs="mptspi|virtio-blk"', []),
        ('initramfs="mptspi|ahci"', ["the driver mptspi or ahci"]),
        ('initramfs="vmw_pvscsi"', ["the driver vmw_pvscsi in the initramfs"]),
        ('driver="e1000"', ["the driver e1000"]),
        ('option="XEN_PV"', ["the option CONFIG_XEN_PV"]),
        ('compression="gzip xz"', ["a kernel compressed with gzip or xz, not lz4"]),
        ('package="cloud-init|ignition openssh-server"', ["the package openssh-server"]),
    ],
)
def test_what_a_kernel_lacks(tmp_path: Path, attributes: str, missing: list[str]) -> None:
    assert list(requires(tmp_path, attributes).missing(CLOUD, frozenset({"cloud-init"}))) == missing


def test_an_impossible_pairing_names_what_is_missing_and_what_has_it(tmp_path: Path) -> None:
    recipe = Recipe("ova", None, (requires(tmp_path, 'initramfs="mptspi" driver="e1000"'),), (), {}, Place(tmp_path, 1))
    with pytest.raises(Unfit) as caught:
        check(recipe, CLOUD, frozenset())
    assert "the driver mptspi, the driver e1000" in caught.value.render()
    assert "linux-image-amd64" in caught.value.render()
    packages = replace(recipe, requires=(requires(tmp_path, 'package="cloud-init"'),))
    with pytest.raises(Unfit) as caught:
        check(packages, CLOUD, frozenset())
    assert "<packages install=" in caught.value.render()
    with pytest.raises(Unfit, match="a kernel"):
        check(recipe, None, frozenset())


def test_a_loader_reads_the_filesystems_that_it_knows(tmp_path: Path) -> None:
    """That of the layout's root counts; where that has none of its own, the node's."""
    required = (requires(tmp_path, 'filesystem="ext4 xfs"'),)
    place = Place(tmp_path, 1)

    def recipe(root: str) -> Recipe:
        return Recipe("pv", Layout("none", (Part("root", filesystem=root),)), required, (), {}, place)

    check(recipe(""), None, frozenset(), "xfs")
    check(recipe("ext4"), None, frozenset(), "btrfs")
    for root, node in (("btrfs", "ext4"), ("", "btrfs")):
        with pytest.raises(Unfit) as caught:
            check(recipe(root), None, frozenset(), node)
        assert "a root filesystem of the type ext4 or xfs, not btrfs" in caught.value.render()
        assert "<root format=" in caught.value.render()


@pytest.mark.parametrize("name", ["xen-pv", "xen-pvh"])
def test_pygrub_reads_no_btrfs(name: str) -> None:
    facts = {"architecture": "x86_64"}
    full = Kernel("6", {"XEN_PV": "y", "XEN_PVH": "y", "HVC_XEN": "y"}, frozenset({"xen_blkfront", "xen_netfront"}))
    for boot in ("pygrub", "direct"):
        recipe = expand(request(name, {"boot": boot}), "web", facts)
        check(recipe, full, frozenset(), "ext4")
        if boot == "direct":
            check(recipe, full, frozenset(), "btrfs")
        else:
            with pytest.raises(Unfit, match="does not fit"):
                check(recipe, full, frozenset(), "btrfs")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_pygrub_itself_reads_ext4_alone(tmp_path: Path, kind: str) -> None:
    """So that formats may ask for it: when a later one fails here, they may ask for more."""
    files, image = tmp_path / "files", tmp_path / "image"
    (files / "boot/grub").mkdir(parents=True)
    (files / "boot/grub/grub.cfg").write_text("menuentry 'x' {\n linux /boot/vmlinuz ro\n initrd /boot/initrd\n}\n")
    for name in ("vmlinuz", "initrd"):
        (files / "boot" / name).write_bytes(b"x" * 5000)
    with image.open("wb") as file:
        file.truncate(320 << 20)
    prototype = tmp_path / "prototype"  # mkfs.xfs(8), -p
    lines = ["/", "0 0", "d--755 0 0", "boot d--755 0 0", "grub d--755 0 0"]
    lines += [f"grub.cfg ---644 0 0 {files / 'boot/grub/grub.cfg'}", "$"]
    lines += [f"{name} ---644 0 0 {files / 'boot' / name}" for name in ("vmlinuz", "initrd")]
    prototype.write_text("\n".join([*lines, "$", "$", ""]))
    make = {
        "ext4": ("mke2fs", "-q", "-t", "ext4", "-d", files),
        "xfs": ("mkfs.xfs", "-q", "-f", "-p", prototype),
        "btrfs": ("mkfs.btrfs", "-q", "-f", "-r", files),
    }[kind]
    subprocess.run([tool(str(make[0])), *make[1:], image], check=True, capture_output=True)
    if kind == "ext4":
        assert xen.pygrub(image, tmp_path)["kernel"] == b"x" * 5000
    else:
        with pytest.raises(xen.Refused):
            xen.pygrub(image, tmp_path)


def test_kernel_options_and_module_lists() -> None:
    assert options('# CONFIG_X is not set\nCONFIG_XEN=y\nCONFIG_E1000=m\nCONFIG_CMDLINE=""\n') == {
        "XEN": "y",
        "E1000": "m",
        "CMDLINE": '""',
    }
    listing = "kernel/net/virtio-net.ko.xz: kernel/drivers/x.ko\nkernel/fs/ext4.ko:\n"
    assert modules(listing) == {"virtio_net", "ext4"}


PACKERS: list[Callable[[bytes], bytes]] = [
    bytes,
    gzip.compress,
    lzma.compress,
    zstandard.ZstdCompressor().compress,
]


@pytest.mark.parametrize("pack", PACKERS)
def test_the_modules_of_an_initramfs(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    def cpio(*names: str) -> bytes:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"x" * 1001)
        words = ["cpio", "--quiet", "-o", "-H", "newc"]
        return subprocess.run(
            words, cwd=tmp_path, input="\n".join(names).encode(), capture_output=True, check=True
        ).stdout

    early = cpio("kernel/x86/microcode.bin")
    data = early + bytes(-len(early) % 512) + pack(cpio("lib/6.1/virtio_blk.ko", "lib/6.1/nvme-core.ko.zst"))
    assert initramfs_modules(data) == {"virtio_blk", "nvme_core"}


BACK = b"070701" + b"00000000" * 6 + b"-0000070" + b"00000000" * 4 + b"00000001" + b"00000000" + b"\0\0"
"""A member that says that it ends where it begins."""


@pytest.mark.parametrize(
    "data", [b"", b"\x28\xb5\x2f\xfdjunk", b"070701junk", b"\xfd7zXZ\0junk", bytes(4096), BACK], ids=repr
)
def test_a_broken_initramfs_has_no_modules(data: bytes) -> None:
    assert initramfs_modules(data) == frozenset()


def test_how_a_kernel_is_compressed() -> None:
    image = bytearray(8192)
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x250] = struct.pack("<II", 16, 100)
    image[1024 + 16 : 1024 + 20] = b"\x02\x21\x4c\x18"
    assert compression(bytes(image)) == "lz4"
    assert compression(b"\x7fELF") == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"6.6.1-arch1-1 (linux@archlinux) #1 SMP\0more", "6.6.1-arch1-1"),
        (b"6.12.40-0-virt\0", "6.12.40-0-virt"),
        (b"../../etc\0", ""),
        (b"6.1/x \0", ""),
        (b"\0", ""),
    ],
)
def test_a_kernels_own_version(text: bytes, found: str) -> None:
    image = bytearray(8192)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = struct.pack("<H", 0x300)
    image[0x500 : 0x500 + len(text)] = text
    assert release(bytes(image)) == found
    assert release(b"\x7fELF") == ""
