"""A kernel taken out of bzImages, compressed as the kernel's build does it, by other programs."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from sfvm.bundle.outputs.kernel import KernelVerb
from sfvm.bundle.stage import Stage, Unfit
from sfvm.bundle.vmlinux import Packed, vmlinux
from sfvm.errors import Place
from tests.peers.tools import tool

KERNEL = b"\x7fELF" + b"a kernel of some size" * 500_000
"""More than one block of LZ4's."""
PLACE = Place(Path("format.xml"), 1)
PROGRAMS = {
    "gzip": "gzip -n -c",
    "bzip2": "bzip2 -c",
    "xz": "xz --check=crc32 -c",
    "lzma": "lzma -c",
    "zstd": "zstd -22 --ultra -c",
    "lz4": "lz4 -l -c",
}
"""Linux, ``scripts/Makefile.lib``."""


def bzimage(payload: bytes) -> bytes:
    """An image with *payload* at 64 of its protected-mode part (Linux, ``Documentation/arch/x86/boot.rst``)."""
    head = bytearray(512 * 3)
    head[0x1F1] = 2
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 64, len(payload))
    return bytes(head) + bytes(64) + payload + b"more"


def packed(kind: str) -> bytes:
    program, *options = PROGRAMS[kind].split()
    done = subprocess.run([tool(program), *options], input=KERNEL, capture_output=True, check=True)
    return done.stdout + (b"" if kind == "gzip" else struct.pack("<I", len(KERNEL)))


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_kernel_is_unpacked(kind: str) -> None:
    assert vmlinux(bzimage(packed(kind))) == KERNEL


@pytest.mark.parametrize("kind", PROGRAMS)
def test_a_damaged_kernel_is_none(kind: str) -> None:
    damaged = bytearray(packed(kind))
    damaged[8:400] = b"\xff" * 392
    with pytest.raises(Packed):
        vmlinux(bzimage(bytes(damaged)))


@pytest.mark.parametrize("image", [b"", b"MZ" + bytes(4096), bzimage(b"\x89LZO" + bytes(99)), bzimage(b"unknown")])
def test_what_is_no_known_kernel_is_none(image: bytes) -> None:
    with pytest.raises(Packed):
        vmlinux(image)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    (tmp_path / "out").mkdir()
    (tmp_path / "vmlinuz").write_bytes(bzimage(packed("xz")))
    (tmp_path / "initrd").write_bytes(b"initrd")
    return Stage(
        tmp_path / "out", None, None, lambda fraction: None, vmlinuz=tmp_path / "vmlinuz", initrd=tmp_path / "initrd"
    )


def test_kernel_and_initramfs_are_artifacts(stage: Stage) -> None:
    KernelVerb("k", "i", False, PLACE).make(stage)
    KernelVerb("elf", "", True, PLACE).make(stage)
    assert stage.made == ["k", "i", "elf"]
    assert stage.vmlinuz is not None
    assert (stage.directory / "k").read_bytes() == stage.vmlinuz.read_bytes()
    assert (stage.directory / "i").read_bytes() == b"initrd"
    assert (stage.directory / "elf").read_bytes() == KERNEL


def test_a_node_without_a_kernel_does_not_fit(stage: Stage, tmp_path: Path) -> None:
    without = Stage(stage.directory, None, None, stage.progress)
    with pytest.raises(Unfit, match="no kernel"):
        KernelVerb("k", "", False, PLACE).make(without)
    shutil.copy(__file__, tmp_path / "vmlinuz")
    with pytest.raises(Unfit, match="cannot be unpacked"):
        KernelVerb("k", "", True, PLACE).make(stage)
    with pytest.raises(Unfit, match="no initramfs"):
        KernelVerb("k2", "i", False, PLACE).make(
            Stage(stage.directory, None, None, stage.progress, vmlinuz=stage.vmlinuz)
        )
