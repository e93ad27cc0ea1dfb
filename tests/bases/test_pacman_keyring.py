"""Whom pacman trusts: the keyring that the base makes, by gpg on this host, from stand-ins of archlinux-keyring."""

import contextlib
import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from sfvm.bases._installroot import CACHE
from sfvm.bases.pacman import DISTRIBUTION, GPG, HOME, NAMED, POPULATE
from tests.mirrors.tiny import Signer, signer
from tests.peers.tools import tool

REAL = Path("/usr/share/keyrings")


@pytest.fixture
def work() -> Iterator[Path]:
    """Takes the place of the appliance's memory; short, for the agent's socket."""
    with tempfile.TemporaryDirectory(prefix="sfvm-p-", dir="/tmp") as directory:
        try:
            yield Path(directory)
        finally:
            subprocess.run([tool("gpgconf"), "--homedir", f"{directory}/gnupg", "--kill", "all"], check=False)


def validity(work: Path, text: str) -> dict[str, str]:
    """What gpg thinks of each key after the script *text* of the appliance: f is fully valid, u ultimately."""
    text = text.replace(HOME, str(work)).replace(CACHE, f"{work}/cache")
    subprocess.run(["sh", "-e", "-c", text], check=True, capture_output=True)
    command = [tool("gpg"), "--homedir", f"{work}/gnupg", "--batch", "--with-colons", "--list-keys"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found, current = {}, ""
    for fields in (line.split(":") for line in lines):
        if fields[0] == "pub":
            current = fields[1]
        elif fields[0] == "fpr" and current:
            found[fields[9]], current = current, ""
    return found


def keyring(directory: Path, masters: list[Signer], others: list[Signer], revoked: str = "") -> Path:
    """The files of archlinux-keyring in *directory*."""
    directory.mkdir(parents=True)
    exported = [made.gpg("--export", made.fingerprint) for made in (*masters, *others)]
    (directory / "archlinux.gpg").write_bytes(b"".join(exported))
    (directory / "archlinux-trusted").write_text("".join(f"{made.fingerprint}:4:\n" for made in masters))
    (directory / "archlinux-revoked").write_text(revoked)
    return directory


@pytest.fixture(scope="module")
def keys() -> Iterator[dict[str, Signer]]:
    """Three masters, a packager and a retired one for whom all vouch, a newcomer for whom one does."""
    names = ("master 1", "master 2", "master 3", "packager", "retired", "newcomer")
    with contextlib.ExitStack() as stack:
        made = {name: stack.enter_context(signer(name)) for name in names}
        for master in names[:3]:
            made[master].certify(made["packager"])
            made[master].certify(made["retired"])
        made["master 1"].certify(made["newcomer"])
        yield made


def test_three_masters_vouch_for_a_packager(work: Path, keys: dict[str, Signer]) -> None:
    masters, others = list(keys.values())[:3], list(keys.values())[3:]
    prints = {name: made.fingerprint for name, made in keys.items()}
    directory = keyring(work / "old", masters, others, f"{prints['retired']}\n{'0' * 40}\n")
    found = validity(work, f"{GPG}{POPULATE}populate {directory}\n")
    assert [found[made.fingerprint] for made in masters] == ["f"] * 3
    assert found[prints["packager"]] == "f"
    assert found[prints["newcomer"]] not in "fu"
    assert prints["retired"] not in found


def test_todays_packagers_are_those_of_the_mirrors_own_keyring(work: Path, keys: dict[str, Signer]) -> None:
    masters = list(keys.values())[:3]
    old = keyring(work / "old", masters, [keys["retired"]])
    new = keyring(work / "usr" / "share" / "pacman" / "keyrings", masters, [keys["packager"]])
    (work / "cache").mkdir()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(new, "usr/share/pacman/keyrings")
    package = work / "archlinux-keyring-1-1-any.pkg.tar.zst"
    package.write_bytes(zstandard.ZstdCompressor().compress(packed.getvalue()))
    # pacman wants to be root; what it would download, with its signature, is copied.
    pacman = f"f() {{ cp {package} {work}/cache/; touch {work}/cache/{package.name}.sig; }}; f"
    script = DISTRIBUTION.format(pacman=pacman).replace(str(REAL), str(old))
    found = validity(work, GPG + POPULATE + script)
    assert found[keys["packager"].fingerprint] == "f"
    assert keys["retired"].fingerprint not in found


def test_a_named_key_is_valid_by_itself(work: Path, keys: dict[str, Signer]) -> None:
    files = [keys[name].public(work / f"{name.split()[0]}.asc") for name in ("packager", "newcomer")]
    found = validity(work, f"{GPG}set -- {files[0]} {files[1]}\n{NAMED}")
    assert found == {keys["packager"].fingerprint: "u", keys["newcomer"].fingerprint: "u"}


@pytest.mark.skipif(not (REAL / "archlinux.gpg").exists(), reason="archlinux-keyring is not installed")
def test_the_keyring_of_this_host(work: Path) -> None:
    found = validity(work, f"{GPG}{POPULATE}populate {REAL}\n")
    masters = [line.partition(":")[0] for line in (REAL / "archlinux-trusted").read_text().split()]
    assert {found[master] for master in masters} == {"f"}
    assert sum(value == "f" for value in found.values()) > 30
