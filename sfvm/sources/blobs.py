"""Where the blobs of a container image are: an OCI layout (a directory, or a tar of it), or a registry.

OCI image-spec 1.1, "Image Layout" and "Image Manifest". A blob is used when its bytes have the digest and the size that
the one before it says; the first digest is in the spec, or in its node's key.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any, Protocol

from sfvm import safejson
from sfvm.archives import DAMAGE, TooLarge, indexed, members
from sfvm.downloads.policy import Refused
from sfvm.downloads.upstream import Target, addresses, proxy_of
from sfvm.errors import SfvmError
from sfvm.events import Preparing
from sfvm.sources.fetch import find, keep, record
from sfvm.verbs import Host

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MOST_JSON = 4 << 20
"""Bytes of an index, a manifest or a configuration; registries take no larger ones."""
PACKED = re.compile(r"(?:\./)?(index\.json|blobs/sha256/[0-9a-f]{64})")
"""What a packed layout has that counts."""
MOST_LAYERS = 512
MOST_NESTED = 4
BLOCK = 1 << 20
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "riscv64": "riscv64", "ppc64le": "ppc64le"}
"""What Go calls the machines that ``uname -m`` tells; the others have the same name."""


class Wrong(ValueError):
    """It is no image, or not this one; the message says why."""


@dataclass(frozen=True)
class Descriptor:
    """A blob: its SHA-256 and *size* in bytes (None: not told); *platform* is ``OS/ARCHITECTURE``, or empty."""

    sha256: str
    size: int | None = None
    platform: str = ""

    @classmethod
    def parse(cls, value: Any) -> Descriptor:
        """:raises Wrong: *value* is none"""
        try:
            digest, size = DIGEST.fullmatch(value["digest"]), value["size"]
            platform = value.get("platform") or {}
            where = f"{platform['os']}/{platform['architecture']}" if platform else ""
        except (KeyError, TypeError, AttributeError):
            raise Wrong("a descriptor is malformed") from None
        if digest is None or not isinstance(size, int) or size < 0:
            raise Wrong("a descriptor has no SHA-256 or no size")
        return cls(digest[1], size, where)


class Blobs(Protocol):
    """Where they are. Both return a file that was compared with its descriptor.

    :raises Wrong: it is not there, or has other bytes
    """

    def manifest(self, descriptor: Descriptor) -> Path:
        """An index or a manifest."""

    def blob(self, descriptor: Descriptor) -> Path:
        """What the last manifest names."""


def layers(blobs: Blobs, first: str, architecture: str, limit: int) -> list[Descriptor]:
    """The layers, the lowest first, of the image for this machine in the index or manifest with the SHA-256 *first*.

    :raises Wrong: there is none
    :raises TooLarge: they have more than *limit* bytes
    """
    wanted = f"linux/{ARCHITECTURES.get(architecture, architecture)}"
    descriptor = Descriptor(first)
    for _ in range(MOST_NESTED):
        document = _document(blobs.manifest(descriptor))
        if "manifests" not in document:
            break
        offered = [Descriptor.parse(value) for value in _list(document, "manifests")]
        fitting = [one for one in offered if one.platform == wanted] or [one for one in offered if not one.platform]
        if not fitting:
            others = ", ".join(sorted({one.platform for one in offered})) or "nothing"
            raise Wrong(f"it is not for {wanted}, but for {others}")
        descriptor = fitting[0]
    found = [Descriptor.parse(value) for value in _list(document, "layers")]
    if len(found) > MOST_LAYERS:
        raise Wrong(f"it has more than {MOST_LAYERS} layers")
    if sum(layer.size or 0 for layer in found) > limit:  # before they are fetched
        raise TooLarge(f"its layers have more than {limit >> 20} MiB")
    config = _document(blobs.blob(Descriptor.parse(document.get("config"))))
    platform = f"{config.get('os', 'linux')}/{config.get('architecture', wanted.partition('/')[2])}"
    if platform != wanted:
        raise Wrong(f"it is for {platform}, not for {wanted}")
    return found


def parsed(file: IO[bytes], name: str) -> dict[str, Any]:
    """The JSON object in *file*.

    :raises Wrong: it is none
    """
    try:
        content = file.read(MOST_JSON + 1)
        value = safejson.loads(content) if len(content) <= MOST_JSON else None
    except (OSError, ValueError) as error:
        raise Wrong(f"{name} cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise Wrong(f"{name} is no JSON object, or too large")
    return value


def _document(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return parsed(file, path.name)


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if not isinstance(value, list):
        raise Wrong(f"its manifest has no {name}")
    return value


def chosen(index: Mapping[str, Any], digest: str | None) -> str:
    """The SHA-256 of the image that a layout's ``index.json`` has: the one with *digest*, or the only one.

    :raises Wrong: there is none, or more than one
    """
    found = [Descriptor.parse(value) for value in _list(index, "manifests")]
    if digest is not None:
        return digest
    if len({one.sha256 for one in found}) != 1:
        told = ", ".join(f"sha256:{one.sha256}" for one in found[:8]) or "nothing"
        raise Wrong(f"it has several images, or none: {told}")
    return found[0].sha256


class Layout(Blobs, Protocol):
    """An OCI layout."""

    def index(self) -> dict[str, Any]:
        """Its ``index.json``.

        :raises Wrong: there is none
        """


class Directory:
    """A layout in the directory *root*."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def index(self) -> dict[str, Any]:
        try:
            with (self.root / "index.json").open("rb") as file:
                return parsed(file, "index.json")
        except OSError as error:
            raise Wrong(f"it has no index.json ({error.strerror})") from None

    def blob(self, descriptor: Descriptor) -> Path:
        path = self.root / "blobs" / "sha256" / descriptor.sha256
        try:
            # A FIFO would block.
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                _compare(file, descriptor)
        except OSError as error:
            raise Wrong(f"it has no blob {descriptor.sha256} ({error.strerror})") from None
        return path

    manifest = blob


class Packed:
    """A layout in the plain tar file *path*; what is asked for is unpacked into *work*.

    :raises Wrong: it is no tar
    """

    def __init__(self, path: Path, work: Path) -> None:
        self.path = path
        self.work = work
        self.places: dict[str, tuple[int, int]] = {}
        """The first byte and the size of what an image may need."""
        try:
            with indexed(path) as archive:
                for member in members(archive):
                    if (name := PACKED.fullmatch(member.name)) and member.isreg() and not member.issparse():
                        self.places[name[1]] = member.offset_data, member.size
        except (*DAMAGE, TooLarge) as error:
            raise Wrong(f"it is no plain tar ({error})") from None

    def index(self) -> dict[str, Any]:
        with self._at("index.json") as (file, size):
            return parsed(BytesIO(file.read(min(size, MOST_JSON + 1))), "index.json")

    def blob(self, descriptor: Descriptor) -> Path:
        target = self.work / descriptor.sha256
        self.work.mkdir(parents=True, exist_ok=True)
        with self._at(f"blobs/sha256/{descriptor.sha256}") as (packed, size), target.open("wb") as file:
            if size > (descriptor.size or MOST_JSON):
                raise Wrong(f"blob {descriptor.sha256} has not {descriptor.size} bytes")
            while size > 0 and (block := packed.read(min(size, BLOCK))):
                file.write(block)
                size -= len(block)
        with target.open("rb") as file:
            _compare(file, descriptor)
        return target

    manifest = blob

    @contextmanager
    def _at(self, name: str) -> Iterator[tuple[IO[bytes], int]]:
        """The tar where the content of *name* begins, and the bytes of that."""
        if name not in self.places:
            raise Wrong(f"it has no {name}")
        place, size = self.places[name]
        with self.path.open("rb") as file:
            file.seek(place)
            yield file, size


def _compare(file: BufferedReader, descriptor: Descriptor) -> None:
    """:raises Wrong: *file* is not what *descriptor* says"""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or (descriptor.size is not None and status.st_size != descriptor.size):
        raise Wrong(f"blob {descriptor.sha256} has {status.st_size} bytes, not {descriptor.size}")
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != descriptor.sha256:
        raise Wrong(f"blob {descriptor.sha256} has the sha256 {found}")


class Registry:
    """The image *name* in a registry, by skopeo(1), which knows how to log in; blobs are kept in the downloads of
    *host*."""

    def __init__(self, name: str, host: Host) -> None:
        self.name = name
        self.host = host
        self.last = ""
        """The last manifest that was asked for: its blobs are fetched together."""

    def manifest(self, descriptor: Descriptor) -> Path:
        self.last = descriptor.sha256
        begun = time.monotonic()
        kept = find(descriptor.sha256, self.host.access)
        cached = kept is not None
        if kept is None:
            draft = self.host.work / "registry.json"
            draft.write_bytes(self._skopeo("inspect", "--raw", self._url(descriptor)))
            kept = self._keep(draft, descriptor)
        return self._used(descriptor, kept, begun, cached=cached)

    def blob(self, descriptor: Descriptor) -> Path:
        begun = time.monotonic()
        kept = find(descriptor.sha256, self.host.access)
        cached = kept is not None
        if kept is None:
            self._fetch()
            kept = find(descriptor.sha256, self.host.access)
        if kept is None:
            raise Wrong(f"the registry has no blob {descriptor.sha256}")
        return self._used(descriptor, kept, begun, cached=cached)

    def _fetch(self) -> None:
        """Keep all blobs of the last manifest."""
        directory = self.host.work / "registry"
        shutil.rmtree(directory, ignore_errors=True)
        try:
            source = self._url(Descriptor(self.last))
            self._skopeo("copy", "--quiet", "--preserve-digests", source, f"dir:{directory}")
            for path in directory.iterdir():
                if re.fullmatch(r"[0-9a-f]{64}", path.name):
                    self._keep(path, Descriptor(path.name))
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _url(self, descriptor: Descriptor) -> str:
        return f"docker://{self.name}@sha256:{descriptor.sha256}"

    def _used(self, descriptor: Descriptor, kept: Path, begun: float, *, cached: bool) -> Path:
        if descriptor.size not in (None, kept.stat().st_size):
            raise Wrong(f"blob {descriptor.sha256} has not {descriptor.size} bytes")
        record(self._url(descriptor), kept, self.host.access, begun, cached=cached)
        return kept

    def _keep(self, draft: Path, descriptor: Descriptor) -> Path:
        try:
            with draft.open("rb") as file:
                _compare(file, descriptor)
            return keep(draft, descriptor.sha256, self.host.access)
        finally:
            draft.unlink(missing_ok=True)

    def _skopeo(self, command: str, *words: str) -> bytes:
        """What skopeo writes to stdout.

        :raises Wrong: it fails
        :raises SfvmError: there is none
        """
        self._judge()
        program = shutil.which("skopeo")
        if program is None:
            raise SfvmError("skopeo cannot be run", why="registries are asked by it", hint="install it: skopeo")
        # No policy of signatures: the digest says which image it is. Loopback has no TLS.
        place = self.name.partition("/")[0]
        plain = ["--src-tls-verify=false" if command == "copy" else "--tls-verify=false"]
        options = plain if place.rpartition(":")[0] in LOOPBACK or place in LOOPBACK else []
        self.host.work.mkdir(parents=True, exist_ok=True)
        bound = shutil.which("setpriv")  # it ends with us, however we end
        process = subprocess.Popen(
            [
                *([bound, "--pdeathsig", "KILL"] if bound else []),
                program,
                "--insecure-policy",
                "--tmpdir",
                str(self.host.work),
                command,
                *options,
                *words,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for us to handle
        )
        what = f"image {self.name}"
        self.host.listener(Preparing(what))
        try:
            with self.host.stop.running(process):
                output, errors = process.communicate()
        finally:
            self.host.listener(Preparing(what, done=True))
        self.host.stop.check()
        if process.returncode != 0:
            lines = errors.decode(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"]
            told = re.search(r'msg="((?:[^"\\]|\\.)*)"', lines[-1])
            raise Wrong(f"skopeo {command}: {told[1] if told else lines[-1]}")
        return output

    def _judge(self) -> None:
        """:raises SfvmError: the policy does not let anybody ask this registry. Where it sends skopeo is not judged"""
        policy = self.host.access.policy
        try:
            if policy.offline:
                raise Refused("offline: it is not in the download cache")
            target = Target.parse(f"https://{self.name}", policy)
            with suppress(OSError):  # a name that nobody knows skopeo will tell
                if proxy_of(target) is None:
                    addresses(target, policy)
        except Refused as error:
            hint = "see docs/network.md"
            raise SfvmError(f"the registry of {self.name} may not be asked", why=str(error), hint=hint) from error
