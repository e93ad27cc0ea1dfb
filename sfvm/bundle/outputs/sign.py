"""``sign``: signatures by the user's own key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from sfvm.bundle.outputs._files import matching
from sfvm.bundle.programs import program, run
from sfvm.bundle.stage import Stage
from sfvm.document import Element
from sfvm.errors import Place


@dataclass(frozen=True)
class Sign:
    """A detached OpenPGP signature ``NAME.asc`` beside each artifact ``of``, made by gpg with ``key`` (an address or a
    fingerprint). The key stays with gpg: its agent asks for a passphrase.

    Example::

        <sign of="*.img" key="${key}"/>

    ``gpg --verify NAME.asc NAME`` checks it.
    """

    element: ClassVar[str] = "sign"
    version: ClassVar[int] = 1
    schema: ClassVar[str] = """
    <element name="sign">
      <attribute name="of"><ref name="words"/></attribute>
      <attribute name="key"><ref name="string"/></attribute>
    </element>"""

    of: tuple[str, ...]
    key: str
    place: Place = field(compare=False)

    @classmethod
    def parse(cls, element: Element) -> Self:
        return cls(element.words("of"), element.attributes["key"], element.place)

    def title(self) -> str:
        return "sign"

    def inputs(self) -> Mapping[str, Any]:
        return {"of": list(self.of), "key": self.key}

    def make(self, stage: Stage) -> None:
        """Write the signatures.

        :raises BundleError: gpg is not there, or does not sign
        """
        gpg = program("gpg", "gpg", self.place)
        for name in matching(stage, self.of, self.place):
            words = [gpg, "--batch", "--armor", "--detach-sign", "--local-user", self.key]
            words += ["--output", str(stage.new(f"{name}.asc", self.place)), str(stage.directory / name)]
            run(
                words,
                stage,
                self.place,
                failure=f"{name} cannot be signed",
                hint="gpg --list-secret-keys shows the keys",
            )
