"""Bases in the real appliance: what a prepared image and an archive become."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from sfvm.appliance.image import Image
from sfvm.guest import Command
from tests.appliance.conftest import boot, disk
from tests.bases.test_partitions import MIB
from tests.bases.test_partitions import disk as partitioned
from tests.verbs import Maker

pytestmark = pytest.mark.vm


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_filesystem_of_an_image_grows_to_the_disk(make: Maker, image: Image) -> None:
    make.specs.mkdir()
    whole, part, tree = make.home / "whole.raw", make.home / "part.raw", make.home / "tree"
    tree.mkdir()
    (tree / "hello").write_text("from the image\n")
    partitioned(whole, "label: gpt\nstart=2048,size=8M,type=uefi\nsize=40M,type=linux\n")
    with part.open("wb") as file:
        file.truncate(40 * MIB)
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-d", tree, part], check=True)
    with whole.open("r+b") as file:
        file.seek(9 * MIB)
        file.write(part.read_bytes())
    path = make.specs / "d.qcow2"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", whole, path], check=True)
    base = make(f'<image from="d.qcow2" sha256="{sha(path)}"/>', "bases")
    prepared = base.prepare(make.home / "work", 1 << 30, "ext4")
    with boot(image, prepared, []) as appliance:
        appliance.grow()
        appliance.mount()
        base.populate(appliance.guest)
        assert appliance.guest.read("/hello") == b"from the image\n"
        blocks, size = appliance.run("stat -f -c '%b %S' /sysroot").split()
        assert int(blocks) * int(size) > 900 * MIB


def test_an_archive_is_the_filesystem(make: Maker, image: Image) -> None:
    """Made by tar itself, of what root filesystems have: links, numbers, modes, attributes, devices."""
    make.specs.mkdir()
    tree, path = make.home / "tree", make.specs / "r.tar.gz"
    for name in ("usr/bin", "etc", "dev"):
        (tree / name).mkdir(parents=True)
    (tree / "bin").symlink_to("usr/bin")
    (tree / "etc" / "mtab").symlink_to("/proc/mounts")
    (tree / "usr" / "bin" / "tool").write_text("tool")
    (tree / "usr" / "bin" / "twin").hardlink_to(tree / "usr" / "bin" / "tool")
    (tree / "usr" / "bin" / "tool").chmod(0o4711)
    subprocess.run(["tar", "--owner=:12", "--group=:34", "-czf", path, "-C", tree, "."], check=True)
    base = make(f'<archive from="r.tar.gz" sha256="{sha(path)}"/>', "bases")
    with boot(image, disk(make.home / "disk.qcow2"), []) as appliance:
        assert base.prepare(make.home, 1 << 30, "ext4") is None
        appliance.format("ext4")
        appliance.mount()
        base.populate(appliance.guest)
        script = "cd /sysroot; stat -c '%a %u:%g %h' bin/tool; readlink bin etc/mtab; stat -c '%u %n' ./etc lost+found"
        assert appliance.guest.capture(Command(script, place="appliance")) == (
            "4711 12:34 2\nusr/bin\n/proc/mounts\n12 ./etc\n0 lost+found\n"
        )
