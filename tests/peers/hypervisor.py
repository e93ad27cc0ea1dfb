"""Xen itself, in an emulated machine: Debian's hypervisor, and a dom0 in memory with Debian's kernel and tools."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.peers.tools import tool

HERE = Path(__file__).parent / "dom0"
MODULES = (
    "drivers/xen",
    "drivers/block/xen-blkback",
    "drivers/block/loop*",
    "drivers/net/xen-netback",
    "net/bridge",
    "net/802",
    "net/llc",
)
"""What dom0 needs of its kernel's modules."""
GUEST_MODULES = ("crc16", "crc32c_generic", "mbcache", "jbd2", "ext4", "xen-blkfront")
"""What a guest needs of them to mount its root, in the order of their dependence."""
INCLUDE = "xen-utils,grub-xen-host,kmod,iproute2,mount,busybox-static"
UNUSED = ("dev/*", "boot/*", "usr/share/doc/*", "usr/share/locale/*", "usr/share/man/*", "var/cache/*", "var/lib/apt/*")
"""What of Debian stays out of the memory."""


@dataclass(frozen=True)
class Xen:
    """A hypervisor, a *kernel* for dom0 and for guests, and the files of a dom0, below *home*."""

    home: Path

    @property
    def kernel(self) -> Path:
        (found,) = (self.home / "linux" / "boot").glob("vmlinuz-*")
        return found

    @property
    def version(self) -> str:
        return self.kernel.name.removeprefix("vmlinuz-")

    @property
    def config(self) -> Path:
        return self.kernel.with_name(f"config-{self.version}")

    def initramfs(self) -> bytes:
        """An initramfs for guests, which tells what the guest sees."""
        root = self.home / "initramfs"
        for name in ("bin", "proc", "sys", "dev", "root", "modules"):
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(next((self.home / "dom0").glob("**/bin/busybox")), root / "bin" / "busybox")
        shutil.copy(HERE / "guest", root / "init")
        for number, name in enumerate(GUEST_MODULES):
            for path in (self.home / "linux").glob(f"**/{name}.ko*"):  # none of what is built in
                data = path.read_bytes()
                data = lzma.decompress(data) if path.suffix == ".xz" else data
                (root / "modules" / str(number)).mkdir()
                (root / "modules" / str(number) / f"{name}.ko").write_bytes(data)
        return _cpio(root)

    def run(self, guests: Mapping[str, Path], seconds: float) -> dict[str, str]:
        """Start each of *guests*, directories of bundles, one after the other; what xl and the guest have said, by
        name."""
        dom0 = self.home / "dom0"
        for name, directory in guests.items():
            target = dom0 / "guests" / name
            target.mkdir(parents=True)
            for path in directory.iterdir():
                if path.suffix in (".img", ".qcow2"):  # an archive in memory has no holes
                    with path.open("rb") as disk, gzip.open(target / f"{path.name}.gz", "wb", 1) as packed:
                        shutil.copyfileobj(disk, packed)
                else:
                    shutil.copy(path, target)
        (self.home / "dom0.cpio").write_bytes(_cpio(dom0))
        shutil.copy(self.kernel, self.home / "vmlinuz")
        (packed_xen,) = (self.home / "xen" / "boot").glob("xen-*.gz")
        (self.home / "xen.elf").write_bytes(gzip.decompress(packed_xen.read_bytes()))
        words = [
            tool("qemu-system-x86_64"), "-machine", "pc", "-accel", "tcg,thread=multi", "-cpu", "qemu64,+svm,+npt",
            "-smp", "2", "-m", "4G", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
            "-kernel", "xen.elf", "-append", "console=com1 com1=115200 dom0_mem=2500M dom0_max_vcpus=1 noreboot",
            "-initrd", "vmlinuz console=hvc0 quiet rdinit=/init,dom0.cpio",
        ]  # fmt: skip
        done = subprocess.run(words, cwd=self.home, capture_output=True, timeout=seconds)
        text = done.stdout.decode(errors="replace").replace("\r", "")
        assert "DOM0: end" in text, text[-4000:]
        parts = re.split(r"DOM0: (?:starts (\S+)|end)\n", text)
        return {name: said for name, said in zip(parts[1::2], parts[2::2], strict=True) if name}


def xen(home: Path) -> Xen:
    """Get what is needed as Debian packages, into *home*; nothing of it is installed."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', Path("/etc/os-release").read_text(), re.MULTILINE))
    for name, package in (("xen", "xen-system-amd64"), ("linux", "linux-image-amd64")):
        words = ["apt-cache", "depends", package]
        listing = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        found = re.search(r"Depends: ((?:xen-hypervisor-\d|linux-image-\d)\S+)", listing)
        assert found is not None, listing
        directory = home / name
        directory.mkdir()
        subprocess.run(["apt-get", "download", "-q", found[1]], cwd=directory, check=True, capture_output=True)
        subprocess.run(["dpkg-deb", "--extract", next(directory.glob("*.deb")), directory], check=True)
    tar = home / "dom0.tar"
    words = [tool("mmdebstrap"), "--quiet", "--variant=essential", f"--include={INCLUDE}"]
    words += ["--aptopt=APT::Install-Recommends false", release["VERSION_CODENAME"], str(tar)]
    subprocess.run(words, check=True, capture_output=True)
    dom0 = home / "dom0"
    dom0.mkdir()
    excluded = [f"--exclude=./{pattern}" for pattern in UNUSED]
    subprocess.run(["tar", "-x", "-f", tar, "-C", dom0, *excluded], check=True)
    made = Xen(home)
    (source,) = (home / "linux").glob("**/modules/*/")
    target = dom0 / "lib" / "modules" / made.version
    for path in (path for pattern in MODULES for path in (source / "kernel").glob(pattern)):
        copy = target / "kernel" / path.relative_to(source / "kernel")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy(path, copy)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(source / name, target)
    subprocess.run([tool("depmod"), "-b", dom0, made.version], check=True, capture_output=True)
    shutil.copy(HERE / "init", dom0 / "init")
    return made


def _cpio(directory: Path) -> bytes:
    names = "\n".join(str(path.relative_to(directory)) for path in sorted(directory.rglob("*"))).encode(
        errors="surrogateescape"
    )
    words = ["cpio", "--create", "--format=newc", "--quiet"]
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(words, cwd=directory, input=names, env=environment, capture_output=True, check=True)
    return done.stdout
