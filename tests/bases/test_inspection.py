"""What is decided of what an image is seen to hold."""

import base64

import pytest

from sfvm.bases._inspection import Unclear, copying, devices, looking, mounts, root, without_disks


def look(*lines: str, **fstabs: str) -> str:
    """What the script tells; ``{name}`` in a line is an fstab of *fstabs*."""
    encoded = {name: base64.b64encode(text.encode()).decode() for name, text in fstabs.items()}
    return "\n".join(lines).format(**encoded) + "\n"


def partition(number: int, kind: str, uuid: str = "", label: str = "") -> list[str]:
    lines = [f"device /dev/sdb{number} {number}"]
    lines += [f"tag UUID={uuid}"] if uuid else []
    lines += [f"tag LABEL={label}"] if label else []
    return [*lines, f"tag TYPE={kind}"] if kind else lines


DISK = ["device /dev/sdb 0", "tag PTTYPE=gpt"]
DEBIAN = [*DISK, *partition(1, "ext4", "aa"), "root . {fstab}", *partition(14, ""), *partition(15, "vfat", "AB-CD")]
UBUNTU = [*DISK, *partition(1, "ext4", "aa", "cloudimg-rootfs"), "root . {fstab}", *partition(14, ""),
          *partition(15, "vfat", "AB-CD", "UEFI"), *partition(16, "ext4", "bb", "BOOT")]  # fmt: skip
FEDORA = [*DISK, *partition(1, ""), *partition(2, "vfat", "AB-CD"), *partition(3, "ext4", "bb"),
          *partition(4, "btrfs", "cc"), "root root {fstab}"]  # fmt: skip
CENTOS = [*DISK, *partition(1, ""), *partition(2, "vfat", "7B77-95E7"), *partition(3, "xfs", "bb"),
          *partition(4, "xfs", "cc"), "root . {fstab}"]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "fstab", "expected"),
    [
        (
            DEBIAN,
            "PARTUUID=x / ext4 rw 0 1\nUUID=AB-CD /boot/efi vfat defaults 0 0\n",
            [("/dev/sdb1", "", "/"), ("/dev/sdb15", "", "/boot/efi")],
        ),
        (
            UBUNTU,
            "LABEL=cloudimg-rootfs / ext4 x 0 1\nLABEL=BOOT\t/boot\text4\tx 0 2\nLABEL=UEFI /boot/efi vfat x 0 1\n",
            [("/dev/sdb1", "", "/"), ("/dev/sdb16", "", "/boot"), ("/dev/sdb15", "", "/boot/efi")],
        ),
        (
            [*UBUNTU, *partition(17, "ext4", "dd", "a b")],
            "/dev/disk/by-id/dm-uuid-LVM-x / ext4 x 0 1\n/dev/disk/by-uuid/bb /boot ext4 x 0 1\n"
            "/dev/disk/by-label/UEFI /boot/efi vfat x 0 1\n/dev/disk/by-label/a\\x20b /srv ext4 x 0 1\n",
            [("/dev/sdb1", "", "/"), ("/dev/sdb16", "", "/boot"), ("/dev/sdb17", "", "/srv"),
             ("/dev/sdb15", "", "/boot/efi")],
        ),
        (
            FEDORA,
            "UUID=cc / btrfs compress=zstd:1,subvol=root 0 0\nUUID=bb /boot ext4 x 0 0\n"
            "UUID=cc /home btrfs subvol=home,compress=zstd:1 0 0\nUUID=ab-cd /boot/efi vfat x 0 0\n",
            [
                ("/dev/sdb4", "root", "/"),
                ("/dev/sdb3", "", "/boot"),
                ("/dev/sdb4", "home", "/home"),
                ("/dev/sdb2", "", "/boot/efi"),
            ],
        ),
        (
            CENTOS,
            "UUID=cc / xfs defaults 0 0\nUUID=bb /boot xfs defaults 0 0\nUUID=7B77-95E7 /boot/efi vfat umask=77 0 2\n",
            [("/dev/sdb4", "", "/"), ("/dev/sdb3", "", "/boot"), ("/dev/sdb2", "", "/boot/efi")],
        ),
        (
            [*DISK, *partition(3, "btrfs", "cc"), "root . {fstab}", "root @ "],
            "UUID=cc / btrfs defaults 0 0\nUUID=cc /.snapshots btrfs subvol=/@/.snapshots 0 0\n"
            "UUID=cc /var btrfs subvol=/@/var 0 0\nUUID=ee swap swap x 0 0\n",
            [("/dev/sdb3", "", "/"), ("/dev/sdb3", "@/var", "/var")],
        ),
        (
            [*DISK, *partition(2, "LVM2_member"), "device /dev/mapper/v--g-root -1", "tag TYPE=xfs", "root . {fstab}",
             "device /dev/mapper/v--g-var -1", "tag TYPE=xfs"],
            "/dev/mapper/v--g-root / xfs x 0 0\n/dev/v-g/var /var xfs x 0 0\n",
            [("/dev/mapper/v--g-root", "", "/"), ("/dev/mapper/v--g-var", "", "/var")],
        ),
        (
            ["device /dev/sdb 0", "tag TYPE=ext4", "root . {fstab}"],
            "/dev/vda / ext4 x 0 1\n",
            [("/dev/sdb", "", "/")],
        ),
        (
            DEBIAN,
            "/dev/vda1 / ext4 x 0 1\n/dev/vda15 /boot/efi vfat",
            [("/dev/sdb1", "", "/"), ("/dev/sdb15", "", "/boot/efi")],
        ),
    ],
    ids=["Debian", "Ubuntu", "links of udev", "Fedora", "CentOS", "openSUSE", "LVM", "no table", "names of the kernel"],
)  # fmt: skip
def test_images_as_distributions_make_them(lines: list[str], fstab: str, expected: list[tuple[str, str, str]]) -> None:
    found = devices(look(*lines, fstab=fstab))
    device, subvolume = root(found, None, None)
    assert [(m.device.path, m.subvolume, m.point) for m in mounts(found, device, subvolume)] == expected


def test_without_an_os_the_only_filesystem_is_the_root() -> None:
    found = devices(look(*DISK, *partition(1, "vfat"), *partition(2, "ext4"), *partition(3, "swap")))
    assert root(found, None, None)[0].number == 2


@pytest.mark.parametrize(
    ("lines", "number", "what"),
    [
        ([*DISK, *partition(1, "ext4"), *partition(2, "xfs")], None, "several filesystems could be the root"),
        ([*DISK, *partition(1, "ext4"), "root . ", *partition(2, "ext4"), "root . "], None, "several"),
        ([*DISK, *partition(1, "vfat"), *partition(2, "crypto_LUKS")], None, "partition 2: crypto_LUKS"),
        ([*DISK, *partition(1, "xfs"), "unmountable"], None, "partition 1: xfs (cannot be mounted)"),
        (["device /dev/sdb 0"], None, "no filesystem can be the root (nothing)"),
        (DEBIAN, 7, "there is no partition 7"),
        (DEBIAN, 15, "partition 15: vfat"),
    ],
)
def test_what_is_not_clear(lines: list[str], number: int | None, what: str) -> None:
    with pytest.raises(Unclear) as caught:
        root(devices(look(*lines, fstab="")), number, None)
    assert what in str(caught.value)


def test_what_was_asked_for() -> None:
    lines = [*DISK, *partition(1, "btrfs"), "root . ", "root @ ", *partition(2, "ext4"), "root . "]
    found = devices(look(*lines))
    assert root(found, 1, "@")[1] == "@"
    assert root(found, 1, None)[1] == ""
    assert root(found, 2, None)[0].path == "/dev/sdb2"


@pytest.mark.parametrize(
    "line", ["UUID=bb ../etc ext4", "UUID=bb / ext4", "UUID=bb /a/../../etc ext4", "UUID=bb none ext4", "UUID= /x ext4",
             "LABEL= /x ext4", "/etc /x none bind 0 0", "UUID=bb", "#UUID=bb /x ext4", "UUID=bb /x swap"],
)  # fmt: skip
def test_entries_that_are_not_followed(line: str) -> None:
    found = devices(look(*DISK, *partition(1, "ext4", "aa"), "root . {fstab}", *partition(2, "ext4", "bb"), fstab=line))
    assert [mount.point for mount in mounts(found, found[1], "")] == ["/"]


def test_nothing_of_an_image_is_taken_for_shell() -> None:
    fstab = "UUID=bb /x';reboot;' btrfs subvol=$(reboot) 0 0\n"
    lines = [*DISK, *partition(1, "ext4", "aa"), "root . {fstab}", *partition(2, "btrfs", "bb")]
    found = devices(look(*lines, fstab=fstab.replace("{", "{{")))
    script = copying(mounts(found, found[1], ""))
    assert "'ro,nodev,nosuid,noexec,subvol=/$(reboot)'" in script
    assert """'/run/sfvm/import/x'"'"';reboot;'"'"''""" in script


@pytest.mark.parametrize("text", ["device /dev/sdb x", "tag TYPE=ext4", "device /dev/sdb 0\nroot . QUJD=QQ"])
def test_what_was_cut_off(text: str) -> None:
    with pytest.raises(Unclear, match="too much"):
        devices(text)


def test_values_of_blkid_are_unescaped() -> None:
    (device,) = devices("device /dev/sdb1 1\ntag LABEL=my\\ root\\\\x\n")
    assert device.tags == {"LABEL": "my root\\x"}


def test_fstab_without_disks() -> None:
    before = """# a comment
UUID=1 / ext4 defaults 0 1
LABEL=BOOT /boot ext4 defaults 0 2
/dev/sda3 none swap sw 0 0
/dev/sr0 /media/cd iso9660 ro,noauto 0 0
tmpfs /tmp tmpfs size=1G 0 0
server:/x /x nfs defaults 0 0
"""
    assert without_disks(before) == """# a comment
# not of this disk: UUID=1 / ext4 defaults 0 1
# not of this disk: LABEL=BOOT /boot ext4 defaults 0 2
# not of this disk: /dev/sda3 none swap sw 0 0
/dev/sr0 /media/cd iso9660 ro,noauto 0 0
tmpfs /tmp tmpfs size=1G 0 0
server:/x /x nfs defaults 0 0
"""  # fmt: skip
    assert without_disks("") == ""


def test_a_subvolume_that_was_asked_for_is_looked_at() -> None:
    assert "for sub in root @ @rootfs; do" in looking(None)
    assert "for sub in root @ @rootfs fedora-root; do" in looking("/fedora-root")
    assert "for sub in root @ @rootfs '$(x)'; do" in looking("$(x)")
    lines = [*DISK, *partition(1, "btrfs", "cc"), "root fedora-root {fstab}", *partition(2, "ext4", "bb")]
    found = devices(look(*lines, fstab="UUID=cc / btrfs subvol=fedora-root 0 0\nUUID=bb /boot ext4 x 0 0\n"))
    assert [mount.point for mount in mounts(found, *root(found, 1, "fedora-root"))] == ["/", "/boot"]
