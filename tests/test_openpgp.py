"""Fingerprints as GnuPG tells them."""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sfvm.openpgp import dearmor, fingerprints


def gpg(home: Path, *words: str) -> bytes:
    command = ("gpg", "--homedir", str(home), "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "")
    return subprocess.run([*command, *words], check=True, stdout=subprocess.PIPE).stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A keyring with an RSA and an Ed25519 key; each has a subkey."""
    where = tmp_path_factory.mktemp("gnupg")
    where.chmod(0o700)
    for kind, name in (("rsa2048", "one@example.org"), ("ed25519", "two@example.org")):
        gpg(where, "--quick-generate-key", name, kind, "cert,sign")
    gpg(where, "--quick-add-key", prints(where)[0], "rsa2048", "encrypt")
    yield where
    subprocess.run(["gpgconf", "--homedir", str(where), "--kill", "all"], check=True)


def prints(home: Path) -> list[str]:
    """What GnuPG says of the primary keys."""
    lines = gpg(home, "--list-keys", "--with-colons").decode().splitlines()
    return [lines[i + 1].split(":")[9] for i, line in enumerate(lines) if line.startswith("pub:")]


@pytest.mark.parametrize("armor", [("--armor",), ()])
def test_fingerprints_are_those_that_gnupg_tells(home: Path, armor: tuple[str, ...]) -> None:
    content = gpg(home, *armor, "--export")
    assert len(prints(home)) == 2
    assert list(fingerprints(content)) == prints(home)


def test_a_file_may_have_several_blocks_and_words_around_them(home: Path) -> None:
    first, second = (gpg(home, "--armor", "--export", name) for name in prints(home))
    assert list(fingerprints(b"Our keys\n\n" + first + b"\nand\n" + second)) == prints(home)


def test_a_secret_key_is_refused(home: Path) -> None:
    content = gpg(home, "--armor", "--export-secret-keys").replace(b"PRIVATE", b"PUBLIC")
    with pytest.raises(ValueError, match="secret"):
        fingerprints(content)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no OpenPGP key"),
        (b"<html>404</html>", "no OpenPGP key"),
        (b"\xc6\x05\x04", "truncated"),
        (b"\xc6", "truncated"),
        (b"\x9b", "without an end"),
        (b"\xc6\x01\x03", "version 3"),
        (b"\xc6\xe1", "in parts"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nAAA\n-----END PGP PUBLIC KEY BLOCK-----\n", "armour"),
    ],
)
def test_what_is_no_key_is_told(content: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fingerprints(content)


def test_a_key_within_another_packet_is_not_overlooked(home: Path) -> None:
    """GnuPG unpacks compressed packets, and would trust what is in them."""
    good, other = (dearmor(gpg(home, "--export", name)) for name in prints(home))
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)  # section 5.6: without zlib's header
    body = b"\x01" + packed.compress(other) + packed.flush()
    with pytest.raises(ValueError, match="tag 8, which belongs in no key"):
        fingerprints(good + b"\xc8\xff" + len(body).to_bytes(4, "big") + body)


def test_a_head_without_an_end_takes_no_time() -> None:
    """It took hours."""
    with pytest.raises(ValueError, match="no OpenPGP key"):
        fingerprints(b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n" + b":" * 500_000)


def test_a_truncated_key_is_told(home: Path) -> None:
    content = dearmor(gpg(home, "--export"))
    with pytest.raises(ValueError, match="truncated"):
        fingerprints(content[:-1])
