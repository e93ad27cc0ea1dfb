"""Bases in the real appliance: what an image and an archive become."""

import base64
import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Appliance, Drive, Shape
from sfvm.config import Settings
from sfvm.errors import SpecError, StepError
from sfvm.events import ignore
from sfvm.guest import ATTACHED, Command, CommandFailed
from tests.appliance.conftest import boot, disk
from tests.sources.layouts import Layout, directory, file, hard, link, pack
from tests.verbs import Maker, host

pytestmark = pytest.mark.vm
MIB = 1 << 20
FILES = """\
mkdir -p $top/etc $top/usr/lib $top/boot $top/home $top/var
echo ID=test >$top/usr/lib/os-release
ln -s ../usr/lib/os-release $top/etc/os-release
echo root >$top/file
ln $top/file $top/twin
chown 12:34 $top/file
chmod 4711 $top/file
setfattr -n security.capability -v 0sAQAAAgAgAAAAAAAAAAAAAAAAAAA= $top/twin
truncate -s 300M $top/sparse
"""
SUMMARY = """\
cd /sysroot
stat -c '%a %u:%g %h' file
getfattr --only-values -n security.capability file | base64
[ $(stat -c %b sparse) -lt 8 ] && echo sparse
readlink etc/os-release
ls boot home var
"""
FILE = "4711 12:34 2\nAQAAAgAgAAAAAAAAAAAAAAAAAAA=\nsparse\n../usr/lib/os-release\n"


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(appliance: Appliance, script: str) -> str:
    return appliance.guest.capture(Command(script, shell="/bin/bash -e", place="appliance", network=False))


@dataclass
class Bench:
    """An appliance with an empty guest, and a disk that a test may make an image of."""

    appliance: Appliance
    make: Maker

    def image(self, table: str, script: str) -> None:
        """Partition the disk with sfdisk's *table*; *script* fills it. ``$disk`` is its device, ``$top`` a directory to
        mount at."""
        self.appliance.unmount()
        run(
            self.appliance,
            f"""
            disk=$(readlink -f {ATTACHED})
            wipefs -qa $disk
            {f"sfdisk -q $disk <<<'{table}'" if table else "blockdev --rereadpt $disk"}
            top=/run/image
            mkdir -p $top
            {script}
            umount -R $top
            """,
        )
        self.appliance.format("ext4")
        self.appliance.mount()

    def populate(self, more: str = "") -> str:
        """What the base makes of it."""
        base = self.make(f'<image src="file:///x" sha256="{"0" * 64}" {more}/>', "bases")
        base.populate(self.appliance.guest, host(self.make.home))
        return run(self.appliance, SUMMARY)

    def fstab(self) -> str:
        return self.appliance.guest.read("/etc/fstab").decode()


@pytest.fixture(scope="module")
def running(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = tmp_path_factory.mktemp("bench")
    settings = Settings(repository=home / "repository", cache=image.directory.parent.parent, memory=768)
    drives = [Drive(disk(home / "target.qcow2")), Drive(disk(home / "image.qcow2"))]
    shape = Shape(memory=768)
    with launch(image, drives, shape, settings, log=lambda line: None, listener=ignore, node="test") as appliance:
        yield appliance


@pytest.fixture
def bench(running: Appliance, make: Maker) -> Bench:
    return Bench(running, make)


def test_an_image_with_a_boot_partition(bench: Bench) -> None:
    """As CentOS makes them: an ESP, /boot, and a root of xfs."""
    bench.image(
        "label: gpt\nsize=40M,type=uefi\nsize=100M,type=linux\ntype=linux\n",
        f"""mkfs.vfat -i 11223344 ${{disk}}1 >/dev/null; mkfs.ext4 -q -L BOOT ${{disk}}2; mkfs.xfs -q -f ${{disk}}3
        mount ${{disk}}3 $top
        {FILES}
        echo "UUID=$(blkid -s UUID -o value ${{disk}}3) / xfs defaults 0 0
        LABEL=BOOT /boot ext4 defaults 0 0
        UUID=1122-3344 /boot/efi vfat defaults 0 0
        tmpfs /tmp tmpfs defaults 0 0" >$top/etc/fstab
        mount ${{disk}}2 $top/boot
        echo kernel >$top/boot/vmlinuz-1
        mkdir $top/boot/efi
        mount ${{disk}}1 $top/boot/efi
        mkdir $top/boot/efi/EFI""",
    )
    assert bench.populate() == FILE + "boot:\nefi\nlost+found\nvmlinuz-1\n\nhome:\n\nvar:\n"
    assert bench.appliance.guest.names("/boot/efi") == ("EFI",)
    assert [line.split()[0] for line in bench.fstab().splitlines()] == ["#", "#", "#", "tmpfs"]
    assert run(bench.appliance, "losetup -a; grep -c /run/sfvm/import /proc/mounts || :") == "0\n"


def test_an_image_with_subvolumes(bench: Bench) -> None:
    """As Fedora makes them: btrfs, whose top level is no root."""
    bench.image(
        "label: gpt\nsize=1M,type=21686148-6449-6E6F-744E-656564454649\nsize=600M,type=linux\n",
        f"""mkfs.btrfs -q -f ${{disk}}2
        mount ${{disk}}2 $top
        all=$top
        for name in root home var; do btrfs -q subvolume create $all/$name; done
        top=$all/root
        {FILES}
        echo "UUID=$(blkid -s UUID -o value ${{disk}}2) / btrfs subvol=root 0 0
        UUID=$(blkid -s UUID -o value ${{disk}}2) /home btrfs subvol=home 0 0
        UUID=$(blkid -s UUID -o value ${{disk}}2) /var btrfs subvol=/var 0 0" >$top/etc/fstab
        mkdir $all/home/alice $all/var/log
        top=$all""",
    )
    assert bench.populate() == FILE + "boot:\n\nhome:\nalice\n\nvar:\nlog\n"


def test_an_image_with_logical_volumes(bench: Bench) -> None:
    bench.image(
        "label: dos\ntype=8e\n",
        f"""lvm() {{ /usr/sbin/lvm "$@" --config 'activation {{ udev_sync=0 udev_rules=0 }}' >/dev/null 2>&1; }}
        modprobe dm_mod
        lvm pvcreate -ff -y -Zn ${{disk}}1; lvm vgcreate -y v-g ${{disk}}1
        lvm lvcreate -y -Wn -Zn -L 500M -n root v-g; lvm lvcreate -y -Wn -Zn -L 200M -n var v-g
        mkfs.ext4 -q /dev/mapper/v--g-root; mkfs.ext4 -q /dev/mapper/v--g-var
        mount /dev/mapper/v--g-root $top
        {FILES}
        echo '/dev/mapper/v--g-root / ext4 x 0 1
        /dev/v-g/var /var ext4 x 0 1' >$top/etc/fstab
        mount /dev/mapper/v--g-var $top/var
        mkdir $top/var/log
        umount -R $top
        lvm vgchange -an
        mount -t tmpfs tmpfs $top""",
    )
    assert bench.populate() == FILE + "boot:\n\nhome:\n\nvar:\nlog\nlost+found\n"
    assert "v--g" not in run(bench.appliance, "ls /dev/mapper; dmsetup ls"), "it is let go"


def test_a_disk_without_a_table_that_was_not_unmounted(bench: Bench) -> None:
    """No OS, and a journal to replay; the image is not written to."""
    bench.image("", f"mkfs.ext4 -q -F $disk; mount $disk $top; {FILES}\nrm -r $top/etc/os-release $top/usr")
    with pytest.raises(CommandFailed):  # the summary finds no os-release
        bench.populate()
    assert (
        run(bench.appliance, "cat /sysroot/file; ls /sysroot")
        == "root\nboot\netc\nfile\nhome\nlost+found\nsparse\ntwin\nvar\n"
    )


def test_symlinks_of_an_image_lead_nowhere(bench: Bench) -> None:
    """Mount points that lead into the appliance are left out; what they pretend to be is not read."""
    bench.image(
        "label: gpt\nsize=300M,type=linux\nsize=100M,type=linux\n",
        """mkfs.ext4 -q -L A ${disk}1; mkfs.ext4 -q -L B ${disk}2
        mount ${disk}2 $top; echo '#!/bin/sh' >$top/cp; mkdir $top/etc; ln -s /etc/passwd $top/etc/fstab
        umount $top
        mount ${disk}1 $top; mkdir $top/etc $top/a; echo >$top/etc/os-release
        ln -s /usr/bin $top/bin; ln -s /etc $top/a/etc
        echo 'LABEL=B /bin ext4 x 0 0
        LABEL=B /a/etc/x ext4 x 0 0' >$top/etc/fstab""",
    )
    base = bench.make(f'<image src="file:///x" sha256="{"0" * 64}" partition="1"/>', "bases")
    base.populate(bench.appliance.guest, host(bench.make.home))
    assert run(bench.appliance, "cd /sysroot; readlink bin; ls a; ls -A | wc -l") == "/usr/bin\netc\n4\n"


def test_a_root_that_is_not_clear(bench: Bench) -> None:
    bench.image(
        "label: gpt\nsize=100M,type=linux\nsize=100M,type=linux\n",
        "mkfs.ext4 -q ${disk}1; mkfs.ext4 -q ${disk}2; mount ${disk}1 $top; echo one >$top/one",
    )
    with pytest.raises(SpecError, match="is not clear") as caught:
        bench.populate()
    assert caught.value.why == ("several filesystems could be the root (partition 1: ext4; partition 2: ext4)")
    bench.make(f'<image src="file:///x" sha256="{"0" * 64}" partition="1"/>', "bases").populate(
        bench.appliance.guest, host(bench.make.home)
    )
    assert bench.appliance.guest.read("/one") == b"one\n"


def test_an_image_that_does_not_fit(bench: Bench) -> None:
    bench.image(
        "label: gpt\ntype=linux\n",
        "mkfs.ext4 -q ${disk}1; mount ${disk}1 $top; mkdir $top/etc; echo >$top/etc/os-release; "
        "dd if=/dev/urandom of=$top/big bs=1M count=300 status=none",
    )
    run(bench.appliance, "fallocate -l 700M /sysroot/filled")
    with pytest.raises(StepError, match="does not fit into the spec's disk") as caught:
        bench.populate()
    assert "<disk size" in str(caught.value.hint)


def test_another_format_is_attached(make: Maker, image: Image, tmp_path: Path) -> None:
    """As VMware has it, compressed."""
    raw, path = tmp_path / "d.raw", make.home / "d.vmdk"
    with raw.open("wb") as file:
        file.truncate(64 * MIB)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "hello").write_text("from the image\n")
    subprocess.run(["/usr/sbin/mkfs.ext4", "-q", "-d", tree, raw], check=True)
    options = ["-o", "subformat=streamOptimized"]
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", *options, raw, path], check=True)
    base = make(f'<image src="file://{path}" sha256="{sha(path)}"/>', "bases")
    own = host(make.home)
    (attached,) = base.prepare(own)
    assert attached.format == "vmdk"
    settings = Settings(repository=tmp_path / "repository", cache=image.directory.parent.parent, memory=768)
    drives = [Drive(disk(tmp_path / "target.qcow2")), Drive(attached.path, attached.format, readonly=True)]
    shape = Shape(memory=768)
    with launch(image, drives, shape, settings, log=lambda line: None, listener=ignore, node="test") as appliance:
        appliance.format("ext4")
        appliance.mount()
        base.populate(appliance.guest, own)
        assert appliance.guest.read("/hello") == b"from the image\n"


def test_a_container_image_is_the_filesystem(bench: Bench) -> None:
    """Attributes and links of layers, as our tar brings them; a symlink of a lower layer is no way out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        ping = tarfile.TarInfo("bin/ping")
        ping.uid, ping.gid, ping.mode = 12, 34, 0o4711
        value = base64.b64decode("AQAAAgAgAAAAAAAAAAAAAAAAAAA=").decode(errors="surrogateescape")
        ping.pax_headers = {"SCHILY.xattr.security.capability": value, "SCHILY.xattr.user.x": "\udcff"}
        tar.addfile(ping)
    layout = Layout(bench.make.specs / "i.oci")
    lower = pack([directory("usr/bin"), link("bin", "/usr/bin"), link("up", "../../.."), file("gone/a"), file("one")])
    upper = pack([file("up/root", "here\n"), file(".wh.gone"), hard("two", "one")])
    layout.index(layout.image(lower, stream.getvalue(), upper))
    base = bench.make('<oci from="i.oci"/>', "bases")
    own = host(bench.make.home / "work")
    base.prepare(own)
    bench.appliance.unmount()
    bench.appliance.format("ext4")
    bench.appliance.mount()
    base.populate(bench.appliance.guest, own)
    script = """cd /sysroot; ls; ls usr/bin; cat root; readlink bin up; stat -c '%a %u:%g' usr/bin/ping; stat -c %h one
    getfattr --only-values -n security.capability usr/bin/ping | base64
    getfattr --only-values -n user.x usr/bin/ping | base64"""
    assert run(bench.appliance, script) == (
        "bin\nlost+found\none\nroot\ntwo\nup\nusr\nping\nhere\n/usr/bin\n../../..\n4711 12:34\n2\n"
        "AQAAAgAgAAAAAAAAAAAAAAAAAAA=\n/w==\n"
    )


def test_an_archive_is_the_filesystem(make: Maker, image: Image) -> None:
    """Made by tar itself, of what root filesystems have: links, numbers, modes, attributes."""
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
        own = host(make.home)
        assert base.prepare(own) == ()
        appliance.format("ext4")
        appliance.mount()
        base.populate(appliance.guest, own)
        script = "cd /sysroot; stat -c '%a %u:%g %h' bin/tool; readlink bin etc/mtab; stat -c '%u %n' ./etc lost+found"
        assert appliance.guest.capture(Command(script, place="appliance")) == (
            "4711 12:34 2\nusr/bin\n/proc/mounts\n12 ./etc\n0 lost+found\n"
        )
