"""``run``: a script in the guest."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from sfvm.document import Element
from sfvm.downloads.policy import PATTERN
from sfvm.errors import Place, SpecError
from sfvm.guest import Command, Guest
from sfvm.steps._common import guest_path
from sfvm.verbs import JSON


@dataclass(frozen=True)
class Run:
    """Run the element's text as a script in the guest. It stops at the first command that fails.

    Example::

        <run timeout="60">nginx -t</run>
        <run network="example.org *.example.net">/opt/vendor/register</run>

    It has no network unless it asks: ``network="yes"``, or the hosts that it may reach (``*.DOMAIN`` stands for all of
    a domain), over http and https, through the proxy that ``http_proxy`` and ``https_proxy`` name. What it downloads is
    not part of the key: to be sure to get the same again, use ``download``.

    The spec's params and the facts are environment variables; ``${…}`` is the shell's. ``shell`` is the interpreter
    (default ``/bin/sh -e``; a script that begins with ``#!`` names its own), ``env`` more variables
    (``A=1 B='two words'``), ``timeout`` seconds. Indentation that all lines have is taken away.
    """

    element: ClassVar[str] = "run"
    version: ClassVar[int] = 2
    schema: ClassVar[str] = """
    <element name="run">
      <optional><attribute name="shell"><ref name="string"/></attribute></optional>
      <optional><attribute name="cwd"><ref name="path"/></attribute></optional>
      <optional><attribute name="user"><ref name="word"/></attribute></optional>
      <optional><attribute name="env"><ref name="string"/></attribute></optional>
      <optional><attribute name="timeout"><ref name="integer"/></attribute></optional>
      <optional><attribute name="network"><ref name="words"/></attribute></optional>
      <text/>
    </element>"""

    script: str
    shell: str
    cwd: str
    user: str | None
    environment: Mapping[str, str]
    timeout: float | None
    network: bool | tuple[str, ...]
    place: Place

    @classmethod
    def parse(cls, element: Element) -> Self:
        script = textwrap.dedent(element.text).strip("\n") + "\n"
        if not script.strip():
            raise SpecError("run has no script", place=element.place, hint="write the script as its text")
        environment = {**element.variables, **_environment(element)}
        first = script.partition("\n")[0]
        shell = element.get("shell") or (first[2:].strip() if first.startswith("#!") else "/bin/sh -e")
        if not shell.startswith("/"):
            raise SpecError(
                f"run: the interpreter {shell!r} is no absolute path",
                place=element.place_of("shell"),
                hint="for example /bin/bash -e",
            )
        timeout = element.get("timeout")
        if timeout and int(timeout) < 1:
            raise SpecError(
                "run: timeout must be 1 or more", place=element.place_of("timeout"), hint="it is in seconds"
            )
        return cls(
            script,
            shell,
            guest_path(element, "cwd") if element.get("cwd") else "/",
            element.get("user"),
            environment,
            float(timeout) if timeout else None,
            _network(element),
            element.place,
        )

    def title(self) -> str:
        lines = [line.strip() for line in self.script.splitlines() if line.strip() and not line.startswith("#!")]
        first = lines[0] if lines else ""
        return f"run {first[:60]}" + (" …" if len(lines) > 1 or len(first) > 60 else "")

    def inputs(self) -> Mapping[str, JSON]:
        return {
            "script": self.script,
            "shell": self.shell,
            "cwd": self.cwd,
            "user": self.user,
            "environment": dict(self.environment),
            "network": self.network if isinstance(self.network, bool) else list(self.network),
        }

    def run(self, guest: Guest) -> None:
        guest.run(
            Command(
                self.script,
                shell=self.shell,
                cwd=self.cwd,
                user=self.user,
                env=self.environment,
                timeout=self.timeout,
                network=self.network,
            )
        )


def _network(element: Element) -> bool | tuple[str, ...]:
    """The attribute ``network``.

    :raises SpecError: it is neither yes, no, nor hosts
    """
    words = element.words("network") or ("no",)
    if words in (("yes",), ("no",)):
        return words == ("yes",)
    for word in words:
        if word in ("yes", "no") or not PATTERN.fullmatch(word):
            raise SpecError(
                f"network: {word!r} is no host",
                place=element.place_of("network"),
                hint="yes, no, or hosts: example.org *.example.net",
            )
    return words


def _environment(element: Element) -> dict[str, str]:
    """The attribute ``env``, split as a shell splits words.

    :raises SpecError: something in it is not NAME=VALUE
    """
    found = {}
    for word in element.shell_words("env"):
        name, equals, value = word.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SpecError(
                f"env: {word!r} is not NAME=VALUE", place=element.place_of("env"), hint="env=\"A=1 B='b c'\""
            )
        found[name] = value
    return found
