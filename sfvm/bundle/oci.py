"""OCI images (opencontainers.org, Image Format Specification 1.0): layers, and the archive of an image's layout."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sfvm.bundle.compression import Sink, compressed
from sfvm.bundle.hashing import HashingFile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "ppc64le": "ppc64le"}
"""Go's names (image-spec, config.md), by uname's."""
TYPE = "application/vnd.oci.image"
SUFFIXES = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
TAG = "latest"


@dataclass(frozen=True)
class Blob:
    """Something that is named by its SHA-256 *digest*: *size* bytes at the begin of *file*."""

    media: str
    digest: str
    size: int
    file: IO[bytes]

    @classmethod
    def of_json(cls, media: str, value: Mapping[str, Any]) -> Blob:
        data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
        return cls(media, hashlib.sha256(data).hexdigest(), len(data), io.BytesIO(data))

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media, "digest": f"sha256:{self.digest}", "size": self.size}


@dataclass(frozen=True)
class Layer:
    """A layer; *content* is the digest of its uncompressed tar, *made_by* is for people."""

    blob: Blob
    content: str
    made_by: str


class LayerWriter:
    """What a layer's tar is written to; :attr:`layer` is there when it is complete."""

    layer: Layer

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write all of *data*."""
        self._digest.update(data)
        return self._sink.write(data)

    def content(self) -> str:
        """The digest of what was written so far."""
        return self._digest.hexdigest()


@contextmanager
def writing_layer(compression: str, made_by: str, directory: Path) -> Iterator[LayerWriter]:
    """Write a layer; its blob is a file without a name in *directory*, for as long as it is open."""
    file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115  # the blob keeps it
    hashing = HashingFile(file)
    with compressed(compression, hashing) as sink:
        writer = LayerWriter(sink)
        yield writer
    blob = Blob(f"{TYPE}.layer.v1.tar{SUFFIXES[compression]}", hashing.sha256(), file.tell(), file)
    writer.layer = Layer(blob, writer.content(), made_by)


def image(layers: Sequence[Layer], architecture: str, config: Mapping[str, Any], epoch: int) -> tuple[Blob, Blob]:
    """An image's configuration and its manifest. *architecture* is uname's, *config* is what a container runs."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    configuration = Blob.of_json(
        f"{TYPE}.config.v1+json",
        {
            "created": created,
            "architecture": ARCHITECTURES.get(architecture, architecture),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.content}" for layer in layers]},
            "history": [{"created": created, "created_by": layer.made_by} for layer in layers],
        },
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{TYPE}.manifest.v1+json",
        "config": configuration.descriptor,
        "layers": [layer.blob.descriptor for layer in layers],
    }
    return configuration, Blob.of_json(f"{TYPE}.manifest.v1+json", manifest)


def write_layout(
    layers: Sequence[Layer], architecture: str, config: Mapping[str, Any], epoch: int, sink: Sink
) -> Iterator[float]:
    """Write the image's layout (image-layout.md) as a tar, what skopeo and podman call an ``oci-archive``; yields how
    much of it is done, 0 to 1."""
    configuration, manifest = image(layers, architecture, config, epoch)
    named = {**manifest.descriptor, "annotations": {"org.opencontainers.image.ref.name": TAG}}
    index = Blob.of_json("", {"schemaVersion": 2, "mediaType": f"{TYPE}.index.v1+json", "manifests": [named]})
    layout = Blob.of_json("", {"imageLayoutVersion": "1.0.0"})
    # A layer that is there twice (nothing changed, twice) is one blob.
    blobs = {f"blobs/sha256/{blob.digest}": blob for blob in (manifest, configuration, *(one.blob for one in layers))}
    files = {"oci-layout": layout, "index.json": index, **blobs}
    total, done = sum(blob.size for blob in files.values()), 0
    with writing_tar(sink) as tar:
        for name in ("blobs", "blobs/sha256"):
            tar.addfile(_member(name, 0, epoch, tarfile.DIRTYPE))
        for name, blob in files.items():
            blob.file.seek(0)
            tar.addfile(_member(name, blob.size, epoch), blob.file)
            done += blob.size
            yield done / total


def writing_tar(sink: Sink) -> tarfile.TarFile:
    """A tar that is written to *sink*, to be closed."""
    return tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT)  # type: ignore[call-overload, no-any-return]


def _member(name: str, size: int, epoch: int, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.mtime = kind, size, epoch
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return member
