"""``oci``: the root filesystem of a container image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from sfvm.bases._room import filling
from sfvm.document import Element
from sfvm.errors import Place, SpecError
from sfvm.guest import Guest
from sfvm.sources import Source
from sfvm.verbs import JSON, Attached, Host

if TYPE_CHECKING:  # tarfile takes long to import, and few builds begin so
    from sfvm.sources.blobs import Blobs, Layout

DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
REFERENCE = re.compile(
    r"docker://((?:[^@\s/]*[.:][^@\s/]*|localhost)/[^@\s]+?)(?::[\w][\w.-]{0,127})?@sha256:([0-9a-f]{64})", re.ASCII
)
TREE = "layers.tar"


@dataclass(frozen=True)
class Oci:
    """Take the files of a container image: all layers, as its last one leaves them.

    Example::

        <base><oci src="docker://docker.io/library/alpine@sha256:…" distribution="alpine"/></base>

    ``from`` is an OCI layout next to the spec: a directory, or a plain tar of it. ``src`` that, or an image in a
    registry by its digest (asked by skopeo, which uses its own logins), or a URL (http, https, sftp, file) of such a
    tar, with its ``sha256``. ``digest`` chooses where a layout has several. Of an
    index, the image for this machine is taken. Every blob must have the digest and the size that what names it tells.
    Its configuration (environment, user, command) is for containers, and left out. Members that would land outside,
    devices anywhere but below ``dev``, and more than the spec's disk can hold are refused.
    """

    element: ClassVar[str] = "oci"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="oci">
      <choice>
        <attribute name="from"><ref name="string"/></attribute>
        <attribute name="src"><ref name="string"/></attribute>
      </choice>
      <optional><attribute name="sha256"><ref name="sha256"/></attribute></optional>
      <optional><attribute name="digest"><ref name="word"/></attribute></optional>
      <optional><attribute name="distribution"><ref name="word"/></attribute></optional>
      <optional><attribute name="release"><ref name="word"/></attribute></optional>
    </element>"""

    path: Path | None
    registry: str
    source: Source | None
    digest: str | None
    known: Mapping[str, str]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        known = {name: value for name in ("distribution", "release") if (value := element.get(name))}
        digest = _digest(element)
        text = element.get("src") or ""
        if text.startswith("docker://"):
            reference = REFERENCE.fullmatch(text)
            if reference is None:
                raise SpecError(
                    f"src {text!r} does not say which image",
                    place=element.place_of("src"),
                    why="a tag moves: an image is known by its digest, in the registry of a host",
                    hint="docker://docker.io/library/alpine@sha256:…, as `skopeo inspect` tells",
                )
            for name, other in (("digest", digest), ("sha256", element.get("sha256"))):
                if other and other.lower() != reference[2]:
                    raise SpecError(
                        f"{name} is not the digest in src", place=element.place_of(name), hint=f"leave {name} out"
                    )
            return cls(None, reference[1], None, reference[2], known, element.place)
        if "://" in text:
            if "sha256" not in element.attributes:
                raise SpecError(
                    "oci has no sha256", place=element.place_of("src"), hint="what comes from a URL needs one"
                )
            return cls(None, "", Source.parse(element), digest, known, element.place)
        if "sha256" in element.attributes:
            return cls(None, "", Source.parse(element), digest, known, element.place)
        path = element.file("from" if "from" in element.attributes else "src")
        base = cls(path, "", None, digest, known, element.place)
        with base._telling():
            return replace(base, digest=_chosen(_layout(path, Path()), digest))

    def title(self) -> str:
        return f"oci {self._name}"

    @property
    def _name(self) -> str:
        if self.source is not None:
            return self.source.name
        return self.path.name if self.path is not None else self.registry

    def inputs(self) -> Mapping[str, JSON]:
        inputs: dict[str, JSON] = {"digest": self.digest, "facts": dict(self.known)}
        return inputs | (dict(self.source.inputs()) if self.source is not None else {})

    def facts(self) -> Mapping[str, str]:
        return self.known

    def prepare(self, host: Host) -> tuple[Attached, ...]:
        import shutil

        from sfvm.sources.blobs import Registry, layers
        from sfvm.sources.layers import flatten

        work = host.work / "oci"
        path = self.source.fetch(host) if self.source is not None else self.path
        target = host.work / TREE
        target.unlink(missing_ok=True)
        try:
            with self._telling():
                work.mkdir(parents=True, exist_ok=True)
                blobs: Blobs
                if path is None:
                    blobs, digest = Registry(self.registry, host), self.digest or ""
                else:
                    blobs = layout = _layout(path, work)
                    digest = _chosen(layout, self.digest)
                found = layers(blobs, digest, host.architecture, host.size)
                flatten([blobs.blob(layer) for layer in found], target, host.size, stop=host.stop)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return ()

    def populate(self, guest: Guest, host: Host) -> None:
        tree = host.work / TREE
        try:
            with filling(self._name, self.place):
                guest.unpack(tree, "/")
        finally:
            tree.unlink(missing_ok=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """What is wrong with the image as an error with a place."""
        from sfvm.archives import TooLarge
        from sfvm.sources.blobs import Wrong
        from sfvm.sources.layers import Refused

        try:
            yield
        except TooLarge as error:
            raise SpecError(
                f"{self._name} is refused: {error}", place=self.place, hint='make <disk size="…"/> larger'
            ) from None
        except OSError as error:
            raise SpecError(
                f"{self._name} cannot be unpacked",
                place=self.place,
                why=f"{error.filename or 'its layers'}: {error.strerror}",
                hint="make room (`sfvm gc` frees what nothing needs)",
            ) from error
        except Refused as error:
            raise SpecError(
                f"{self._name} is refused", place=self.place, why=str(error), hint="do not use it"
            ) from None
        except Wrong as error:
            raise SpecError(
                f"{self._name} is not the image that the spec expects",
                place=self.place,
                why=str(error),
                hint="skopeo inspect, and skopeo copy docker://… oci:DIRECTORY, show and make one",
            ) from None


def _layout(path: Path, work: Path) -> Layout:
    from sfvm.sources.blobs import Directory, Packed

    return Directory(path) if path.is_dir() else Packed(path, work)


def _chosen(layout: Layout, digest: str | None) -> str:
    from sfvm.sources.blobs import chosen

    return chosen(layout.index(), digest)


def _digest(element: Element) -> str | None:
    """The attribute ``digest`` without its algorithm.

    :raises SpecError: it is none
    """
    text = element.get("digest")
    found = DIGEST.fullmatch(text) if text else None
    if text and found is None:
        hint = "sha256: and 64 hexadecimal digits, as in index.json"
        raise SpecError(f"digest {text!r} is none", place=element.place_of("digest"), hint=hint)
    return found[1] if found else None
