"""OCI layouts as tests make them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE, DIRECTORY, LINK, HARD = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Member = tuple[str, bytes, str]
"""Name, kind, and the content of a file or the target of a link."""


def file(name: str, content: str = "") -> Member:
    return name, FILE, content


def directory(name: str) -> Member:
    return name, DIRECTORY, ""


def link(name: str, target: str) -> Member:
    return name, LINK, target


def hard(name: str, target: str) -> Member:
    return name, HARD, target


def pack(members: Sequence[Member]) -> bytes:
    """A layer, not compressed."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, text in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755 if kind == DIRECTORY else 0o644
            info.linkname = text if kind in (LINK, HARD) else ""
            content = text.encode() if kind == FILE else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@dataclass
class Layout:
    """An OCI layout in *root*."""

    root: Path

    def __post_init__(self) -> None:
        (self.root / "blobs" / "sha256").mkdir(parents=True)
        (self.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, content: bytes, kind: str = "config.v1+json", **more: Any) -> dict[str, Any]:
        """Its descriptor."""
        sha256 = hashlib.sha256(content).hexdigest()
        (self.root / "blobs" / "sha256" / sha256).write_bytes(content)
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{sha256}", "size": len(content), **more}

    def json(self, value: Any, kind: str, **more: Any) -> dict[str, Any]:
        return self.blob(json.dumps(value).encode(), kind, **more)

    def image(self, *layers: bytes, architecture: str = "amd64", **more: Any) -> dict[str, Any]:
        """An image of these tars, compressed; its descriptor."""
        diffs = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": diffs}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.json(config, "config.v1+json"),
            "layers": [self.blob(gzip.compress(layer, 1), "layer.v1.tar+gzip") for layer in layers],
        }
        return self.json(manifest, "manifest.v1+json", **more)

    def index(self, *images: dict[str, Any]) -> None:
        """What the layout has."""
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": list(images)}))
