"""A node as layers: what every node of its chain changed against its parent, and at last what bundling changed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfvm.appliance.machine import Appliance, Drive
from sfvm.bundle.packing import chain_script, last_layer_script
from sfvm.cancellation import Cancellation
from sfvm.repository import Manifest, Repository

MOST = 24
"""Nodes that have a layer of their own: each is a drive of the appliance, and no image may have more than 127 layers.
Above, the first layer is that of several."""
MARGIN = 64 << 20


@dataclass(frozen=True)
class Layering:
    """The layers of the node of *manifest*, made below *work*."""

    manifest: Manifest
    work: Path
    repository: Repository
    stop: Cancellation

    @property
    def nodes(self) -> tuple[Manifest, ...]:
        """Those with a layer, from the root of the tree on."""
        found = [self.manifest]
        while (parent := found[-1].parent) is not None and len(found) < MOST:
            found.append(self.repository.manifest(parent))
        return tuple(reversed(found))

    def drives(self) -> tuple[Drive, ...]:
        """The raw file that the layers are written to, one after the other, and the nodes."""
        stream = self.work / "layers"
        with stream.open("xb") as file:
            # Sparse. In the worst case every node changes everything.
            file.truncate(sum(node.disk * 2 + MARGIN for node in self.nodes))
        backing = (self.repository.backing(node.key, stop=self.stop) for node in self.nodes)
        return Drive(stream, "raw"), *(Drive(path, readonly=True) for path in backing)

    def pack(self, appliance: Appliance, first: int) -> tuple[int, ...]:
        """Write the nodes' layers; *first* is the number of the appliance's drive that is the first of ours. The guest
        must not be mounted. Returns the bytes of each layer."""
        target, *devices = (appliance.device(first + number) for number in range(1 + len(self.nodes)))
        return _numbers(appliance.run(chain_script(devices, self.manifest.filesystem, target)))

    def finish(self, appliance: Appliance, first: int, counts: Sequence[int], latest: int) -> tuple[int, ...]:
        """Write the last layer: what was changed in the mounted guest since."""
        script = last_layer_script(appliance.device(first), sum(counts), latest)
        return (*counts, *_numbers(appliance.run(script)))

    def cut(self, counts: Sequence[int]) -> tuple[Path, ...]:
        """The layers as files, the root's first."""
        stream = self.work / "layers"
        found = tuple(_cut(stream, self.work, counts, self.stop))
        stream.unlink()
        return found


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


def _cut(stream: Path, work: Path, counts: Sequence[int], stop: Cancellation) -> Iterator[Path]:
    with stream.open("rb") as source:
        for number, count in enumerate(counts):
            path, left = work / f"layer-{number}.tar", count
            with path.open("xb") as target:
                while left and (copied := os.copy_file_range(source.fileno(), target.fileno(), min(left, 64 << 20))):
                    stop.check()
                    left -= copied
            yield path
