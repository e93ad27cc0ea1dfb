"""The types of filesystems that a part can have, and how one is made, as lines of shell.

In the lines ``$device`` is what it is made on, ``$uuid`` its identifier, ``$size`` its size in bytes; ``$source`` is
the directory that a read-only image is made of, ``$epoch`` its time; ``$blocks`` is an
option of mke2fs. ``guest`` runs a program of the guest's, and fails where it has none.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True)
class Filesystem:
    """One type: the lines *make* it; *module* is what the guest's kernel reads it with. What it needs is what the files
    take, *percent* of that and *margin* bytes more, at least *least* bytes. An image (*readonly*) is as large as
    *measure* prints, in bytes."""

    make: str
    module: str
    percent: int = 0
    margin: int = 0
    least: int = MIB
    measure: str = ""
    uuid: bool = True

    @property
    def readonly(self) -> bool:
        return bool(self.measure)


_EXT4 = "mke2fs -q -t ext4 -F -U $uuid"
# Newer e2fsprogs turn these on; GRUB 2.06 and older kernels refuse them.
_OLD = "-O ^metadata_csum_seed,^orphan_file"
_ON = "$blocks $device $((size / 1024))k"
_BTRFS = "mkfs.btrfs -q -f -U $uuid -b $size $device"
_XFS = "mkfs.xfs -q -f -m uuid=$uuid -d size=$size $device"
_F2FS = "mkfs.f2fs -q -f -U $uuid $device $((size / 512))"

TYPES = {
    "ext4": Filesystem(
        f"guest {_EXT4} {_OLD} {_ON} || {_EXT4} {_OLD} {_ON} 2>/dev/null || {_EXT4} {_ON}", "ext4", 6, 24 * MIB
    ),
    # A log of 64 MiB, and mkfs.xfs makes none below 300 MiB any more (xfsprogs 5.19).
    "xfs": Filesystem(f"guest {_XFS} || {_XFS}", "xfs", 6, 80 * MIB, 304 * MIB),
    # Metadata are written twice; mkfs.btrfs(8): 109 MiB at least.
    "btrfs": Filesystem(f"guest {_BTRFS} >/dev/null || {_BTRFS} >/dev/null", "btrfs", 10, 128 * MIB, 128 * MIB),
    "f2fs": Filesystem(f"guest {_F2FS} >/dev/null || {_F2FS} >/dev/null", "f2fs", 10, 128 * MIB, 128 * MIB),
    "vfat": Filesystem(
        "mkfs.vfat --invariant -F 32 -i ${uuid/-/} $device $((size / 1024)) >/dev/null", "vfat", 2, MIB, 40 * MIB
    ),
    "squashfs": Filesystem(
        'mksquashfs "$source" $device -noappend -no-progress -quiet -comp zstd -mkfs-time 0 -e lost+found >/dev/null',
        "squashfs",
        # bytes_used of the superblock (Linux, fs/squashfs/squashfs_fs.h).
        measure="od -An -tu8 -j40 -N8 $device",
        uuid=False,
    ),
    "erofs": Filesystem(
        # Later times are what sysprep has changed; it is the time of the filesystem, too.
        'SOURCE_DATE_EPOCH=$epoch mkfs.erofs -zlz4hc -U $uuid --exclude-path=lost+found $device "$source" >/dev/null',
        "erofs",
        # blocks and blkszbits of the superblock (Linux, fs/erofs/erofs_fs.h).
        measure="echo $(($(od -An -tu4 -j1060 -N4 $device) << $(od -An -tu1 -j1036 -N1 $device)))",
    ),
}
DATA = ("ext4", "xfs", "btrfs", "f2fs", "vfat", "squashfs", "erofs")
ROOT = ("ext4", "xfs", "btrfs", "f2fs", "squashfs", "erofs")
