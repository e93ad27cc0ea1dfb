"""A disk as a snapshot of Amazon EBS, over the EBS direct APIs.

Source: Amazon EBS User Guide, "Write EBS snapshots using EBS direct APIs" and "Use checksums with the EBS direct APIs".
"""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfvm.bundle.holes import spans
from sfvm.errors import PublishError

BLOCK = 512 << 10
"""Bytes of a block; all are of this size."""
GIB = 1 << 30
"""Bytes that the size of a volume is told in."""
WORKERS = 16
"""Blocks on their way at once: what counts is the time until Amazon answers."""
PATIENCE = 24 * 60
"""Minutes until Amazon gives up a snapshot that nobody writes to (10 to 4320)."""
_ZEROS = bytes(BLOCK)


@dataclass(frozen=True)
class Sent:
    """How many *blocks* a snapshot has, and the *checksum* of all of them, in base64."""

    blocks: int
    checksum: str


def start(ebs: Any, size: int, description: str, token: str) -> str:
    """Begin a snapshot for a disk of *size* bytes; return its identifier. The same *token* begins it only once."""
    answer = ebs.start_snapshot(
        VolumeSize=-(-size // GIB),
        Description=description,
        ClientToken=token,
        Timeout=PATIENCE,
        Tags=[{"Key": "Name", "Value": description}],
    )
    return str(answer["SnapshotId"])


def upload(ebs: Any, snapshot: str, disk: Path, after: int, done: Callable[[int], None]) -> Sent:
    """Write the blocks of *disk* that are not zero to *snapshot*; those below index *after* are there already, and only
    counted. *done* is told, from this thread, below which index all are there, and may raise.

    At most 32 blocks are in memory. The *ebs* client tries again what fails for a while.
    """
    blocks, checksum = 0, hashlib.sha256()
    pending: deque[tuple[int, Future[bytes]]] = deque()

    def settle(left: int) -> None:
        nonlocal blocks
        while len(pending) > left:
            index, future = pending.popleft()
            checksum.update(future.result())
            blocks += 1
            done(index + 1)

    pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="ebs")
    try:
        for index, data in nonzero(disk):
            pending.append((index, pool.submit(_put, ebs if index >= after else None, snapshot, index, data)))
            settle(2 * WORKERS - 1)
        settle(0)
    finally:
        pool.shutdown(cancel_futures=True)
    return Sent(blocks, base64.b64encode(checksum.digest()).decode())


def complete(ebs: Any, snapshot: str, sent: Sent) -> None:
    """Say that all blocks are there; Amazon compares the checksum: LINEAR is the SHA-256 of the blocks' SHA-256, in the
    order of their indexes."""
    ebs.complete_snapshot(
        SnapshotId=snapshot,
        ChangedBlocksCount=sent.blocks,
        Checksum=sent.checksum,
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )


def nonzero(disk: Path) -> Iterator[tuple[int, bytes]]:
    """The blocks of *disk* that are not zero, by index; holes are not read, the last block is filled up."""
    with disk.open("rb") as file:
        for offset in spans(file.fileno(), disk.stat().st_size, BLOCK):
            file.seek(offset)
            data = file.read(BLOCK).ljust(BLOCK, b"\0")
            if data != _ZEROS:
                yield offset // BLOCK, data


def _put(ebs: Any, snapshot: str, index: int, data: bytes) -> bytes:
    """The SHA-256 of a block, which is written unless *ebs* is None."""
    digest = hashlib.sha256(data).digest()
    if ebs is not None:
        checksum = base64.b64encode(digest).decode()
        answer = ebs.put_snapshot_block(
            SnapshotId=snapshot,
            BlockIndex=index,
            BlockData=data,
            DataLength=BLOCK,
            Checksum=checksum,
            ChecksumAlgorithm="SHA256",
        )
        if answer.get("Checksum", checksum) != checksum:
            raise PublishError(f"block {index} of {snapshot} was damaged on its way", hint="run the same command again")
    return digest
