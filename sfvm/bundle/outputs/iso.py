"""``iso``: artifacts on a CD that BIOS and UEFI firmware boot, from a disc or copied to a USB stick."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

from sfvm.bundle.disk import grub, loader
from sfvm.bundle.outputs._files import matching
from sfvm.bundle.programs import program, run
from sfvm.bundle.stage import Stage, linked
from sfvm.document import Element
from sfvm.errors import BundleError, Place

MODULES = "iso9660 search_fs_file"
"""What GRUB needs beside what it needs on disks."""
ELTORITO, EFI = "boot/grub/eltorito.img", "boot/grub/efi.img"
EFI_SIZE = 4 << 20
HYBRID = loader.MODULES / grub.BIOS / "boot_hybrid.img"
LONGEST_VOLUME = 32


@dataclass(frozen=True)
class Iso:
    """Artifacts made so far as an ISO 9660 filesystem (Rock Ridge and Joliet); they are in it only.

    Example::

        <iso volume="LIVE" as="${name}.iso">
          <put of="${name}.vmlinuz" at="/live/vmlinuz"/>
          <put of="grub.cfg" at="/boot/grub/grub.cfg"/>
        </iso>

    With a ``/boot/grub/grub.cfg`` it boots: by BIOS and UEFI, from a CD and from a USB stick that it was copied to; the
    files are below GRUB's ``$root``. Without one it holds data: ``volume="cidata"`` is for cloud-init.
    """

    element: ClassVar[str] = "iso"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="iso">
      <attribute name="as"><ref name="string"/></attribute>
      <attribute name="volume"><ref name="string"/></attribute>
      <oneOrMore><element name="put">
        <attribute name="of"><ref name="string"/></attribute>
        <attribute name="at"><ref name="path"/></attribute>
      </element></oneOrMore>
    </element>"""

    name: str
    volume: str
    files: tuple[tuple[str, str], ...]
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        files = tuple((child.attributes["of"], child.attributes["at"]) for child in element.children)
        return cls(element.attributes["as"], element.attributes["volume"], files, element.place)

    def title(self) -> str:
        return f"iso {self.name}"

    def inputs(self) -> Mapping[str, Any]:
        return {"as": self.name, "volume": self.volume, "files": [list(pair) for pair in self.files]}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: an artifact is not there; xorriso or GRUB is not, or fails
        """
        if len(self.volume) > LONGEST_VOLUME:
            raise BundleError(
                f"{self.volume!r} is too long for the name of a volume",
                place=self.place,
                hint=f"{LONGEST_VOLUME} characters at most (ISO 9660)",
            )
        xorriso = program("xorriso", "xorriso", self.place)
        with tempfile.TemporaryDirectory(dir=stage.directory) as made:
            tree, work = Path(made) / "tree", Path(made) / "work"
            tree.mkdir()
            work.mkdir()
            for pattern, path in self.files:
                (name,) = matching(stage, (pattern,), self.place)
                target = tree / PurePosixPath(path).relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                if not linked(stage.directory / name, target):
                    shutil.copyfile(stage.directory / name, target)
            options = self._loader(stage, tree, work) if (tree / "boot/grub/grub.cfg").exists() else []
            for file in (*tree.rglob("*"), tree):
                os.utime(file, (stage.epoch, stage.epoch))
            words = [xorriso, "-as", "mkisofs", "-quiet", "-iso-level", "3", "-r", "-J", "-joliet-long"]
            words += ["-V", self.volume, *options, "-o", str(stage.new(self.name, self.place)), str(tree)]
            run(words, stage, self.place, environment={"SOURCE_DATE_EPOCH": str(stage.epoch)})
        for name in {name for pattern, _ in self.files for name in matching(stage, (pattern,), self.place)}:
            stage.drop(name)

    def _loader(self, stage: Stage, tree: Path, work: Path) -> list[str]:
        """GRUB's images, below *tree*; returns the options that make them boot, as grub-mkrescue(1) has them."""
        mark = f"/.disk/{stage.uuid('iso')}"
        (tree / ".disk").mkdir()
        (tree / mark.removeprefix("/")).touch()
        early = work / "early.cfg"
        early.write_text(f"search.file {mark} root\nset prefix=($root)/boot/grub\n", encoding="ascii")
        application = work / "EFI/BOOT/BOOTX64.EFI"
        application.parent.mkdir(parents=True)
        for platform, base, target in (
            ("i386-pc-eltorito", grub.BIOS, tree / ELTORITO),
            (grub.UEFI, grub.UEFI, application),
        ):
            modules = f"{grub.MODULES[base]} {MODULES}".split()
            words = ("-O", platform, "-o", str(target), "-p", "/boot/grub", "-c", str(early), *modules)
            loader.run(stage.epoch, loader.MKIMAGE, *words)
        with (tree / EFI).open("xb") as file:
            file.truncate(EFI_SIZE)
        os.utime(application, (stage.epoch, stage.epoch))
        loader.run(stage.epoch, ("mkfs.vfat",), "-i", stage.uuid("iso esp").hex[:8], tree / EFI)
        loader.run(stage.epoch, ("mcopy",), "-s", "-i", tree / EFI, work / "EFI", "::")
        return [
            *("-b", ELTORITO, "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info"),
            *("--grub2-mbr", str(HYBRID)),
            *("--efi-boot", EFI, "-efi-boot-part", "--efi-boot-image", "--protective-msdos-label"),
            # Its own would follow from the time alone.
            *("--gpt_disk_guid", str(stage.uuid("iso disk"))),
        ]
