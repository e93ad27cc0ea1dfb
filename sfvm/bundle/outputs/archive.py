"""``archive``: artifacts packed into one tar file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.compression import compressed
from sfvm.bundle.outputs._files import matching
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import BundleError, Place

BLOCK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """Artifacts made so far as a tar file, in the order of the patterns ``of``; they are in it only, unless
    ``keep="yes"``.

    Example::

        <archive of="*.ovf *.mf *.vmdk" format="gnu" as="${name}.ova"/>

    ``format`` is ``ustar``, ``gnu``, ``oldgnu`` or ``posix`` (tar(1)); ``sparse="yes"`` leaves out holes;
    ``compression`` is ``none``, ``gzip``, ``xz`` or ``zstd``. Members belong to root, have mode 0644, and the time of
    the build.
    """

    element: ClassVar[str] = "archive"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="archive">
      <attribute name="of"><ref name="words"/></attribute>
      <attribute name="as"><ref name="string"/></attribute>
      <optional><attribute name="format">
        <choice><value>ustar</value><value>gnu</value><value>oldgnu</value><value>posix</value></choice>
      </attribute></optional>
      <optional><attribute name="sparse"><ref name="yes-no"/></attribute></optional>
      <optional><attribute name="keep"><ref name="yes-no"/></attribute></optional>
      <optional><attribute name="compression">
        <choice><value>none</value><value>gzip</value><value>xz</value><value>zstd</value></choice>
      </attribute></optional>
    </element>"""

    of: tuple[str, ...]
    name: str
    format: str
    sparse: bool
    keep: bool
    compression: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(
            element.words("of"),
            element.attributes["as"],
            element.get("format") or "gnu",
            element.flag("sparse"),
            element.flag("keep"),
            element.get("compression") or "none",
            element.place,
        )

    def title(self) -> str:
        return f"archive {self.name}"

    def inputs(self) -> Mapping[str, Any]:
        return {"of": list(self.of), "as": self.name, "format": self.format, "sparse": self.sparse,
                "keep": self.keep, "compression": self.compression}  # fmt: skip

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: a pattern without an artifact; tar fails
        """
        members = matching(stage, self.of, self.place)
        target = stage.new(self.name, self.place)
        total = sum((stage.directory / name).stat().st_blocks * 512 for name in members) or 1
        words = [
            "tar",
            "--create",
            f"--format={self.format}",
            "--numeric-owner",
            "--owner=0",
            "--group=0",
            "--mode=0644",
            f"--mtime=@{stage.epoch}",
            *(["--sparse"] if self.sparse else []),
            "--",
            *members,
        ]
        # C: GNU tar's messages are shown.
        process = subprocess.Popen(
            words, cwd=stage.directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
        with stage.stop.running(process), stage.writing(target) as file:
            assert process.stdout is not None and process.stderr is not None
            done = 0
            with compressed(self.compression, file) as sink:
                while block := process.stdout.read(BLOCK):
                    sink.write(block)
                    done += len(block)
                    stage.progress(min(done / total, 1))
            message = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise BundleError(f"{self.name} cannot be packed", place=self.place, why=message or "tar was killed")
        if not self.keep:
            for name in members:
                stage.drop(name)
