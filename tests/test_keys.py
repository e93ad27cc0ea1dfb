"""Keys next to a spec and behind a URL: only those that the spec names."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sfvm import document
from sfvm.errors import SfvmError, SpecError, StepError
from sfvm.guest import Command
from sfvm.keys import DIRECTORY, Keys, armor
from sfvm.openpgp import fingerprints
from tests.mirrors.tiny import signer
from tests.peers.tools import tool

BODY = b"\x04\x00\x00\x00\x00\x16 any other bytes"
KEY = bytes([0xC6, len(BODY)]) + BODY
PRINT = fingerprints(KEY)[0]
OTHER = "0" * 40


@dataclass
class Web:
    """A guest whose curl finds *content*."""

    content: bytes = KEY
    scripts: list[str] = field(default_factory=list)

    def capture(self, command: Command) -> str:
        return base64.b64encode(self.content).decode()

    def run(self, command: Command) -> None:
        self.scripts.append(command.script)


def parse(directory: Path, attributes: str) -> Keys:
    spec = directory / "spec.xml"
    spec.write_text(f'<repository xmlns="urn:sfvm:1" {attributes}/>')
    return Keys.parse(document.parse(spec))


def written(web: Any, keys: Keys) -> tuple[str, ...]:
    return keys.write(web)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "a.asc").write_bytes(armor(KEY))
    (tmp_path / "text.asc").write_text("hello")
    return tmp_path


def test_a_key_next_to_the_spec_is_given_to_package_managers_armoured(directory: Path) -> None:
    keys, web = parse(directory, 'keys="a.asc"'), Web()
    (path,) = written(web, keys)
    assert path.startswith(f"{DIRECTORY}/")
    assert base64.encodebytes(armor(KEY)).decode() in web.scripts[0]


def test_the_content_counts_and_not_the_name(directory: Path) -> None:
    (directory / "b.asc").write_bytes(armor(KEY))
    assert parse(directory, 'keys="a.asc"').inputs() == parse(directory, 'keys="b.asc"').inputs()


def test_what_is_empty_is_absent(directory: Path) -> None:
    keys = parse(directory, 'key-url="http://mirror/key" fingerprint=""')
    assert not keys
    assert written(Web(), keys) == ()


def test_a_key_behind_a_url_is_taken_when_its_fingerprint_is_named(directory: Path) -> None:
    spaced = " ".join(PRINT[i : i + 4] for i in range(0, 40, 4)).lower()
    assert len(written(Web(), parse(directory, f'key-url="http://mirror/key" fingerprint="{spaced}"'))) == 1


def test_another_key_behind_the_url_is_refused(directory: Path) -> None:
    keys = parse(directory, f'key-url="http://mirror/key" fingerprint="{OTHER}"')
    with pytest.raises(StepError, match="not the key that the spec names") as caught:
        written(Web(), keys)
    assert PRINT in str(caught.value)
    with pytest.raises(StepError, match="is no key"):
        written(Web(b"<html>"), keys)


@pytest.mark.parametrize(
    ("attributes", "what"),
    [
        ('keys="none.asc"', "does not exist"),
        ('keys="../a.asc"', "leaves the spec's directory"),
        ('keys="text.asc"', "is no key"),
        (f'keys="a.asc" fingerprint="{OTHER}"', "is not the key that the spec names"),
        ('key-url="http://mirror/key" fingerprint="DEADBEEF"', "fingerprint 'DEADBEEF' is none"),
        (f'key-url="ftp://mirror/key" fingerprint="{OTHER}"', "not http or https"),
    ],
)
def test_what_cannot_be_trusted_is_an_error_with_its_place(directory: Path, attributes: str, what: str) -> None:
    with pytest.raises(SpecError, match=what) as caught:
        parse(directory, attributes)
    error: SfvmError = caught.value
    assert error.place is not None


def test_rpm_takes_what_is_armoured_here(tmp_path: Path) -> None:
    """It wants the checksum that others may leave out, and finds every key of the block."""
    with signer("one") as one, signer("two") as two:
        both = one.public(tmp_path / "one").read_bytes() + two.public(tmp_path / "two").read_bytes()
        (tmp_path / "both.asc").write_bytes(armor(both))
        database = ["--dbpath", str(tmp_path / "db")]
        subprocess.run([tool("rpmkeys"), *database, "--import", tmp_path / "both.asc"], check=True)
        found = subprocess.run([tool("rpm"), *database, "-qa"], check=True, capture_output=True, text=True).stdout
        assert all(made.fingerprint[-8:].lower() in found for made in (one, two))
