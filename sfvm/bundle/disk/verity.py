"""dm-verity: a read-only root whose every block is checked against a tree of hashes, which stands in a partition behind
it and hangs on one root hash.

Sources: Linux, Documentation/admin-guide/device-mapper/verity.rst; veritysetup(8); the UAPI group's Discoverable
Partitions Specification (the identifiers), which systemd-veritysetup-generator(8) follows.
"""

from __future__ import annotations

import hashlib
import uuid

from sfvm.bundle.disk.layout import Layout

BLOCK = 4096
"""Bytes of a block of data, and of hashes."""
HASHES = BLOCK // 32
"""So many SHA-256 are in a block."""
FORMATS = ("ext4", "squashfs", "erofs")
DEVICE = "/dev/mapper/root"
"""What systemd calls the checked root."""
UNKNOWN = "@ROOTHASH@"
"""Stands for the root hash in what is written before the root is made."""


def hashes_size(data: int) -> int:
    """The bytes that veritysetup writes for *data* bytes: its superblock, and the tree."""
    blocks, total = -(-data // BLOCK), 1
    while blocks > 1:
        blocks = -(-blocks // HASHES)
        total += blocks
    return total * BLOCK


def salt(unique: uuid.UUID) -> str:
    """The salt of the hashes, in hexadecimal."""
    return hashlib.sha256(uuid.uuid5(unique, "verity salt").bytes).hexdigest()


def arguments(root_hash: str) -> str:
    """What the kernel's arguments say of it."""
    return f"roothash={root_hash}"


def identifiers(layout: Layout, root_hash: str) -> dict[int, uuid.UUID]:
    """The identifiers of the partitions of the root and of its hashes, by number: so they are found by the hash."""
    number = next((number for number, part in enumerate(layout.parts) if part.verity), None)
    if number is None:
        return {}
    return {number: uuid.UUID(root_hash[:32]), number + 1: uuid.UUID(root_hash[-32:])}
