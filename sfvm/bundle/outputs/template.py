"""``template``: a text file that tells a platform of the disk beside it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from sfvm.bundle.stage import Stage
from sfvm.digest import file_digest
from sfvm.document import Element
from sfvm.errors import BundleError, Place

MARKUP = (".xml", ".ovf")


@dataclass(frozen=True)
class Template:
    """A file made from a Jinja template.

    Example::

        <template from="vmware/ovf.xml.j2" as="${name}.ovf"/>

    ``from`` is below the format's directory. The template knows ``name``, ``key``, ``settings`` (the format's params),
    ``facts``, ``packages``, ``disk`` (its size in bytes; 0 without a layout), and ``size(file)``, ``sha256(file)`` of
    artifacts made before it, ``sha1(file)``; ``uuid(purpose)``, which is the same for every bundle of the
    node; ``epoch`` and ``date``, the time of the build. In ``.xml`` and ``.ovf`` files values are escaped.
    """

    element: ClassVar[str] = "template"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="template">
      <attribute name="from"><ref name="string"/></attribute>
      <attribute name="as"><ref name="string"/></attribute>
    </element>"""

    source: Path
    name: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.file("from"), element.attributes["as"], element.place)

    def title(self) -> str:
        return f"template {self.source.name}"

    def inputs(self) -> Mapping[str, Any]:
        return {"from": file_digest(self.source, self.place), "as": self.name}

    def make(self, stage: Stage) -> None:
        """Write the artifact.

        :raises BundleError: the template has an error, or names what is not there
        """
        from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(self.source.parent),
            undefined=StrictUndefined,
            autoescape=self.name.endswith(MARKUP),
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals.update(
            size=lambda name: self._artifact(stage, name).stat().st_size,
            sha256=lambda name: stage.digest(self._artifact(stage, name).name),
            sha1=lambda name: stage.digest(self._artifact(stage, name).name, "sha1"),
            uuid=lambda purpose="": str(stage.uuid(purpose)),
            date=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(stage.epoch)),
            epoch=stage.epoch,
        )
        target = stage.new(self.name, self.place)
        try:
            text = environment.get_template(self.source.name).render(**stage.facts)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            line = getattr(error, "lineno", None)
            raise BundleError(
                f"the template {self.source}{f', line {line},' if line else ''} cannot be filled in",
                place=self.place,
                why=str(error),
                hint="known: " + ", ".join(sorted([*stage.facts, "size()", "sha256()", "uuid()"])),
            ) from error
        target.write_text(text, encoding="utf-8")

    def _artifact(self, stage: Stage, name: str) -> Path:
        if name not in stage.made or name == self.name:
            raise BundleError(
                f"there is no artifact {name!r}",
                place=self.place,
                why="there is " + (", ".join(made for made in stage.made if made != self.name) or "none yet"),
                hint="a template comes after what it tells of",
            )
        return stage.directory / name
