"""S3-backed images: opened again by openssl, gzip and tar alone, as the cloud and the user would."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from lxml import etree

from sfvm.bundle import Bundler
from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.format import every, expand, request
from sfvm.bundle.stage import Stage, Unfit
from sfvm.config import Settings
from sfvm.errors import BundleError
from sfvm.events import BundleSkipped, Event
from sfvm.repository import Repository
from tests.peers.tools import tool

MIB = 1 << 20
FACTS = {"architecture": "x86_64", "distribution": "debian", "release": "bookworm"}
USER = "123456789012"


def run(name: str, *words: str | Path, input: bytes | None = None) -> bytes:
    done = subprocess.run([tool(name), *map(str, words)], input=input, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(done.stderr.decode(errors="replace"))
    return done.stdout


Make = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path, keys: Path) -> Make:
    def made(disk: bytes = b"", **more: str) -> Stage:
        files = {"private_key": "user.key", "certificate": "user.pem", "ec2_certificate": "cloud.pem"}
        given = {name: str(keys / more.pop(name, file)) for name, file in files.items()}
        wanted = request("ami-instance-store", {"boot": "none", "user": USER, **given, **more})
        recipe = expand(wanted, "web", FACTS)
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "disk").write_bytes(disk or os.urandom(23 * MIB) + bytes(MIB))
        facts = {"name": "web", "key": "0" * 64, "settings": dict(recipe.settings), "facts": FACTS}
        stage = Stage(tmp_path / "out", Disk(tmp_path / "disk"), None, lambda fraction: None, facts,
                      identity=uuid.UUID(int=1), epoch=1700000000)  # fmt: skip
        for output in recipe.outputs:
            output.make(stage)
        return stage

    return made


def unbundle(directory: Path, key: Path, certificate: Path, who: str, work: Path) -> bytes:
    """The disk of the bundle in *directory*, opened with the private *key* of ``user`` or ``ec2`` by openssl, gzip and
    tar; *certificate* is that of the user, who has signed.

    :raises ValueError: anything is not what the manifest says
    """
    manifest = (directory / "web.manifest.xml").read_bytes()
    root = etree.fromstring(manifest)
    signed = re.search(rb"<machine_configuration>.*</image>", manifest, re.DOTALL)
    assert signed
    (work / "signed").write_bytes(signed[0])
    (work / "signature").write_bytes(bytes.fromhex(root.findtext("signature")))
    (work / "public").write_bytes(run("openssl", "x509", "-in", certificate, "-pubkey", "-noout"))
    run("openssl", "dgst", "-sha1", "-verify", work / "public", "-signature", work / "signature", work / "signed")
    image = root.find("image")
    packed = b""
    for part in image.iterfind("parts/part"):
        data = (directory / part.findtext("filename")).read_bytes()
        if hashlib.sha1(data).hexdigest() != part.findtext("digest"):
            raise ValueError(f"{part.findtext('filename')} is not what the manifest says")
        packed += data
    assert len(packed) == int(image.findtext("bundled_size"))

    def secret(name: str) -> str:
        locked = bytes.fromhex(image.findtext(f"{who}_encrypted_{name}"))
        return run("openssl", "pkeyutl", "-decrypt", "-inkey", key, input=locked).decode()

    plain = run("openssl", "enc", "-d", "-aes-128-cbc", "-K", secret("key"), "-iv", secret("iv"), input=packed)
    archive = run("gzip", "-dc", input=plain)
    assert len(archive) % 10240 == 0
    assert hashlib.sha1(archive).hexdigest() == image.findtext("digest")
    assert run("tar", "-tf", "-", input=archive) == b"web\n"
    disk = run("tar", "-xOf", "-", "web", input=archive)
    assert len(disk) == int(image.findtext("size"))
    return disk


@pytest.mark.parametrize(("who", "key"), [("user", "user.key"), ("ec2", "cloud.key")])
def test_user_and_cloud_open_it(make: Make, keys: Path, tmp_path: Path, who: str, key: str) -> None:
    stage = make()
    assert stage.made == ["web.part.00", "web.part.01", "web.part.02", "web.manifest.xml", "register-image.json"]
    sizes = [(stage.directory / name).stat().st_size for name in stage.made[:3]]
    assert sizes[:2] == [10 * MIB, 10 * MIB]
    assert unbundle(stage.directory, keys / key, keys / "user.pem", who, tmp_path) == (tmp_path / "disk").read_bytes()
    with pytest.raises(ValueError, match=r".+"):
        unbundle(stage.directory, keys / "other.key", keys / "user.pem", who, tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("web.part.01", None, None),
        ("web.manifest.xml", b"x86_64", b"x86_65"),
        ("web.manifest.xml", USER.encode(), b"999"),
    ],
)
def test_what_was_changed_is_noticed(
    make: Make, keys: Path, tmp_path: Path, file: str, old: bytes | None, new: bytes | None
) -> None:
    stage = make()
    path = stage.directory / file
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if old is None else data.replace(old, new or b""))
    with pytest.raises(ValueError, match=r"bad signature|not what"):
        unbundle(stage.directory, keys / "user.key", keys / "user.pem", "user", tmp_path)


def test_the_manifest_is_of_the_order_that_its_readers_want(make: Make) -> None:
    stage = make(b"x" * MIB, kernel="aki-12345678", ramdisk="ari-12345678")
    data = (stage.directory / "web.manifest.xml").read_bytes()
    root = etree.fromstring(data)
    assert [child.tag for child in root] == ["version", "bundler", "machine_configuration", "image", "signature"]
    assert [child.tag for child in root.find("machine_configuration")] == ["architecture", "kernel_id", "ramdisk_id"]
    assert [child.tag for child in root.find("image")] == [
        "name", "user", "type", "digest", "size", "bundled_size", "ec2_encrypted_key", "user_encrypted_key",
        "ec2_encrypted_iv", "user_encrypted_iv", "parts",
    ]  # fmt: skip
    assert b"\n" not in data.partition(b"?>\n")[2]


def test_no_two_bundles_have_the_same_key(make: Make) -> None:
    made = []
    for _ in range(2):
        stage = make(b"x" * MIB)
        made.append((stage.directory / "web.part.00").read_bytes())
        for name in list(stage.made):
            stage.drop(name)
    assert made[0] != made[1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"certificate": "other.pem"}, "not a pair"),
        ({"certificate": "user.key"}, "cannot be used"),
        ({"private_key": "locked"}, "without a passphrase"),
        ({"ec2_certificate": "missing"}, "No such file"),
    ],
)
def test_keys_that_do_not_fit_are_refused(make: Make, tmp_path: Path, more: dict[str, str], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        make(**more)
    assert not list((tmp_path / "out").iterdir())


def test_a_disk_above_ten_gibibytes_is_refused(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfvm.bundle.outputs.ec2_bundle.MOST", MIB)
    with pytest.raises(BundleError, match="too large"):
        make(b"x" * (MIB + 512))


def test_params_without_a_value_are_asked_for(tmp_path: Path, settings: Settings) -> None:
    told: list[Event] = []
    bundler = Bundler(tmp_path, Repository(settings.repository), settings, told.append, lambda directory: None)
    with pytest.raises(Unfit, match="--set user="):
        bundler.jobs("web", "0" * 64, FACTS, [request("ami-instance-store", {})])
    assert bundler.jobs("web", "0" * 64, FACTS, every({}))  # of all formats it is left out
    assert [(event.format, event.reason) for event in told if isinstance(event, BundleSkipped)] == [
        ("ami-instance-store", "it needs --set user=…")
    ]


def test_a_paravirtual_image_is_the_filesystem_alone(keys: Path) -> None:
    given = {
        "user": USER,
        "private_key": "k",
        "certificate": "c",
        "ec2_certificate": "e",
        "virtualization": "paravirtual",
    }
    layout = expand(request("ami-instance-store", given), "web", FACTS).layout
    assert layout is not None
    assert (layout.table, layout.boot.loader, layout.boot.consoles) == ("none", "pygrub", ("hvc0",))
