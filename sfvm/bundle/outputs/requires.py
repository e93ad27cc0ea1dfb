"""``requires``: what a platform wants of the guest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.kernel import Kernel
from sfvm.document import Element
from sfvm.errors import Place


@dataclass(frozen=True)
class Requires:
    """What the guest must have to work on a platform; a bundle of a node that lacks it is an error.

    Example::

        <requires initramfs="vmw_pvscsi|mptspi" driver="vmxnet3|e1000" option="EFI_STUB"/>

    ``initramfs`` are modules that find the root disk: built into the kernel, or in its initramfs; ``driver`` those that
    are built in or that the guest has; ``option`` are the kernel's, set to y or m; ``compression`` is how its image may
    be compressed; ``package`` are packages that are installed. A blank is "and", ``|`` is "or". A node without a kernel
    is asked for packages alone, if the disk has no boot loader. ``filesystem="ext4 xfs"`` are the types that the root
    may have, for loaders that read no others.
    """

    element: ClassVar[str] = "requires"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="requires">
      <optional><attribute name="initramfs"><ref name="words"/></attribute></optional>
      <optional><attribute name="driver"><ref name="words"/></attribute></optional>
      <optional><attribute name="option"><ref name="words"/></attribute></optional>
      <optional><attribute name="compression"><ref name="words"/></attribute></optional>
      <optional><attribute name="package"><ref name="words"/></attribute></optional>
      <optional><attribute name="filesystem"><ref name="words"/></attribute></optional>
    </element>"""

    initramfs: tuple[str, ...]
    driver: tuple[str, ...]
    option: tuple[str, ...]
    compression: tuple[str, ...]
    package: tuple[str, ...]
    place: Place = field(compare=False)
    filesystem: tuple[str, ...] = ()

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(
            element.words("initramfs"),
            element.words("driver"),
            element.words("option"),
            element.words("compression"),
            element.words("package"),
            element.place,
            element.words("filesystem"),
        )

    def title(self) -> str:
        return "requires " + " ".join((*self.initramfs, *self.driver, *self.option, *self.package, *self.filesystem))

    def inputs(self) -> Mapping[str, Any]:
        return {"initramfs": list(self.initramfs), "driver": list(self.driver), "option": list(self.option),
                "compression": list(self.compression), "package": list(self.package),
                "filesystem": list(self.filesystem)}  # fmt: skip

    @property
    def of_kernel(self) -> bool:
        """Whether anything is asked of the kernel."""
        return bool(self.initramfs or self.driver or self.option or self.compression)

    def missing(self, kernel: Kernel | None, packages: frozenset[str], filesystem: str = "") -> Iterator[str]:
        """What is not there, each as a phrase; nothing is asked of a *kernel* that is None, nor of a root *filesystem*
        that is ""."""
        if self.filesystem and filesystem and filesystem not in self.filesystem:
            yield f"a root filesystem of the type {' or '.join(self.filesystem)}, not {filesystem}"
        for words in self.package:
            if not _any(words, packages):
                yield f"the package {_or(words)}"
        if kernel is None:
            return
        for words in self.initramfs:
            if not _any(words, kernel.builtin | kernel.initramfs):
                have = _any(words, kernel.modules)
                yield f"the driver {_or(words)}" + (" in the initramfs" if have else "")
        for words in self.driver:
            if not _any(words, kernel.builtin | kernel.modules):
                yield f"the driver {_or(words)}"
        for words in self.option:
            if not any(kernel.options.get(option) in ("y", "m") for option in words.split("|")):
                yield f"the option CONFIG_{_or(words)}"
        if self.compression and kernel.compression and kernel.compression not in self.compression:
            yield f"a kernel compressed with {' or '.join(self.compression)}, not {kernel.compression}"


def advice(lacking: Sequence[str], kernel: Kernel | None) -> str:
    """What to do about what :meth:`Requires.missing` has told."""
    if any("root filesystem" in phrase for phrase in lacking):
        return 'give the layout one: <root format="…"/>, or the node: <disk format="…"/>; or choose another loader'
    if all("package" in phrase for phrase in lacking):
        return 'install it in the node: <packages install="…"/>'
    if kernel is not None and "cloud" in kernel.version:
        return "the cloud kernel is small: linux-image-amd64 has all drivers (sfvm build debian --param kernel=…)"
    return "install it in the node (a kernel with it, or MODULES=most in initramfs.conf); or choose another format"


def _any(words: str, found: frozenset[str]) -> bool:
    return any(word.replace("-", "_") in found or word in found for word in words.split("|"))


def _or(words: str) -> str:
    return " or ".join(words.split("|"))
