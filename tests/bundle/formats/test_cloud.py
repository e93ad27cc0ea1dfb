"""Formats of clouds, made of a small disk without a VM, and judged by what their makers and others wrote."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import struct
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.format import Formats, Recipe, expand, request
from sfvm.bundle.identifiers import vhd_checksum
from sfvm.bundle.stage import Stage
from sfvm.errors import BundleError, UsageError
from tests.peers.tools import tool

MIB = 1 << 20
GIB = 1 << 30
EPOCH = 1700000000
KEY = "0123456789abcdef" * 4
FACTS = {"architecture": "x86_64", "distribution": "debian", "release": "bookworm"}
PIECES = {0: b"boot sector", 3 * MIB: os.urandom(MIB), 20 * MIB - 4096: b"end" * 1000}


def disk_of(path: Path, size: int = 21 * MIB) -> Path:
    """A sparse disk with something at the beginning, in the middle and near the end."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in PIECES.items():
            file.seek(offset)
            file.write(data)
    return path


Make = Callable[..., Stage]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes the bundle of a small disk in a format, as the bundler does once it has the disk."""

    def made(name: str, *, size: int = 21 * MIB, node: str = "web", again: str = "", **values: str) -> Stage:
        recipe = recipe_of(name, node, values)
        directory = tmp_path / f"out-{name}{again}"
        directory.mkdir()
        disk = disk_of(tmp_path / f"disk-{name}{again}", size)
        facts = {"name": node, "key": KEY, "settings": dict(recipe.settings), "facts": FACTS, "packages": [],
                 "disk": size, "root_uuid": "", "arguments": "", "kernel": ""}  # fmt: skip
        stage = Stage(directory, Disk(disk), None, lambda fraction: None, facts, identity=uuid.UUID(int=7), epoch=EPOCH)
        for output in recipe.outputs:
            output.make(stage)
        assert sorted(stage.made) == sorted(path.name for path in directory.iterdir())
        return stage

    return made


def recipe_of(name: str, node: str = "web", values: Mapping[str, str] | None = None) -> Recipe:
    return expand(request(name, {"boot": "none", **(values or {})}), node, FACTS)


def read(stage: Stage, name: str) -> Any:
    return json.loads((stage.directory / name).read_text())


def run(name: str, *words: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool(name), *map(str, words)], capture_output=True, text=True, check=False, **more)


def same(one: Path, kind: str, other: Path) -> bool:
    return run("qemu-img", "compare", "-f", kind, "-F", "raw", one, other).returncode == 0


# Amazon: the parameters of the API, as botocore's model of it has them.


def problems(service: str, operation: str, parameters: Mapping[str, Any]) -> list[str]:
    """What is wrong with *parameters* of an API call; the validator of botocore looks at no enumeration."""
    import botocore.session
    from botocore.validate import ParamValidator

    model = botocore.session.get_session().get_service_model(service).operation_model(operation)
    report = ParamValidator().validate(dict(parameters), model.input_shape)
    return [report.generate_report()] if report.has_errors() else unknown(model.input_shape, parameters)


def unknown(shape: Any, value: Any, where: str = "") -> list[str]:
    """Values that are none of their enumeration's."""
    if shape.type_name == "structure":
        return [bad for name, inner in value.items() for bad in unknown(shape.members[name], inner, f"{where}.{name}")]
    if shape.type_name == "list":
        return [bad for inner in value for bad in unknown(shape.member, inner, where)]
    return [f"{where}: {value}"] if getattr(shape, "enum", None) and value not in shape.enum else []


@pytest.mark.parametrize("boot_mode", ["legacy-bios", "uefi", "uefi-preferred"])
@pytest.mark.parametrize("volume_type", ["gp3", "io2", "standard"])
def test_amazon_knows_every_word_of_the_ami(make: Make, boot_mode: str, volume_type: str) -> None:
    stage = make("ami", node="a+b", boot_mode=boot_mode, volume_type=volume_type, imds="any")
    register = read(stage, "register-image.json")
    assert problems("ec2", "RegisterImage", register) == []
    assert problems("ec2", "ImportSnapshot", read(stage, "import-snapshot.json")) == []
    assert re.fullmatch(r"[A-Za-z0-9 ()./_\-'@\[\]]{3,128}", register["Name"])
    (mapping,) = register["BlockDeviceMappings"]
    assert register["RootDeviceName"] == mapping["DeviceName"]
    assert register["BootMode"] == boot_mode
    assert mapping["Ebs"]["VolumeSize"] == 1
    assert ("Iops" in mapping["Ebs"]) == (volume_type == "io2")
    assert (stage.directory / "a+b.img").read_bytes() == (stage.directory.parent / "disk-ami").read_bytes()


def test_the_volume_is_never_smaller_than_the_disk(make: Make) -> None:
    register = read(make("ami", size=2 * GIB + MIB, volume_size="2"), "register-image.json")
    assert register["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 3
    register = read(make("ami", again="2", volume_size="20"), "register-image.json")
    assert register["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 20


@pytest.mark.parametrize("change", [{"BootMode": "bios"}, {"Colour": "red"}, {"Name": 7}, {"EnaSupport": "yes"}])
def test_what_amazon_does_not_know_is_heard(make: Make, change: dict[str, Any]) -> None:
    assert problems("ec2", "RegisterImage", {**read(make("ami"), "register-image.json"), **change})


def test_a_wrong_word_is_refused_before_anything_is_made() -> None:
    with pytest.raises(UsageError, match="uefi-preferred"):
        recipe_of("ami", values={"boot_mode": "bios"})
    with pytest.raises(UsageError, match="cannot be 'a;b'"):
        recipe_of("ami", values={"image": "a;b"})


def test_an_ami_wants_its_drivers() -> None:
    (required,) = recipe_of("ami").requires
    assert (required.initramfs, required.driver) == (("nvme",), ("ena",))
    (required,) = recipe_of("azure").requires
    assert "hv_storvsc" in required.initramfs


# Google: the schema of its API, as its own client library ships it.


def discovery() -> dict[str, Any]:
    import googleapiclient

    path = Path(googleapiclient.__file__).parent / "discovery_cache/documents/compute.v1.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found["schemas"]


def misfits(schemas: Mapping[str, Any], schema: Mapping[str, Any], value: Any, where: str = "image") -> list[str]:
    """What of *value* Google's discovery *schema* does not have."""
    if "$ref" in schema:
        return misfits(schemas, schemas[schema["$ref"]], value, where)
    if schema["type"] == "object":
        if extra := set(value) - set(schema["properties"]):
            return [f"{where}: {extra}"]
        return [
            bad for name, inner in value.items()
            for bad in misfits(schemas, schema["properties"][name], inner, f"{where}.{name}")
        ]  # fmt: skip
    if schema["type"] == "array":
        return [bad for inner in value for bad in misfits(schemas, schema["items"], inner, where)]
    if not isinstance(value, {"string": str, "integer": int, "boolean": bool}[schema["type"]]):
        return [f"{where}: {value!r}"]
    wrong = ("enum" in schema and value not in schema["enum"]) or not re.fullmatch(schema.get("pattern", ".*"), value)
    return [f"{where}: {value!r}"] if wrong else []


def plausible(path: Path) -> bool:
    """Whether Compute Engine would take the archive: GNU tar without extensions, disk.raw alone, whole gigabytes."""
    with gzip.open(path) as file:
        gnu = file.read(512)[257:265] == b"ustar  \0"
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    return gnu and [member.name for member in members] == ["disk.raw"] and members[0].size % GIB == 0


def test_google_takes_the_archive(make: Make, tmp_path: Path) -> None:
    stage = make("gce", size=GIB)
    archive = stage.directory / "web.tar.gz"
    assert plausible(archive)
    (tmp_path / "bsd").mkdir()
    assert run("bsdtar", "-xSf", archive, "-C", tmp_path / "bsd").returncode == 0
    assert same(tmp_path / "bsd" / "disk.raw", "raw", tmp_path / "disk-gce")
    assert recipe_of("gce").layout.multiple == GIB
    (tmp_path / "disk.raw").write_bytes(b"x" * 512)
    for kind, member in (("posix", "disk.raw"), ("oldgnu", "./disk.raw")):
        run("tar", f"--format={kind}", "-C", tmp_path, "-czf", tmp_path / "wrong.tar.gz", member)
        assert not plausible(tmp_path / "wrong.tar.gz")


@pytest.mark.parametrize("node", ["web", "9_Lives+x.y", "a" * 100])
def test_google_knows_every_word_of_the_image(make: Make, node: str) -> None:
    image = read(make("gce", size=GIB, node=node, family="debian"), "image.json")
    schemas = discovery()
    assert misfits(schemas, schemas["Image"], image) == []
    for change in ({"name": "Upper"}, {"guestOsFeatures": [{"type": "FAST"}]}, {"colour": "red"}):
        assert misfits(schemas, schemas["Image"], {**image, **change})


# Azure: a fixed VHD, as the specification and other readers have it.


def test_azure_takes_the_disk(make: Make, tmp_path: Path) -> None:
    stage = make("azure")
    image = stage.directory / "web.vhd"
    footer = image.read_bytes()[-512:]
    cookie, features, version, offset, _, _, _, _, original, current, _, kind, summed = struct.unpack_from(
        ">8sIIQI4sI4sQQIII", footer
    )
    assert (cookie, features, version, offset, kind) == (b"conectix", 2, 0x10000, 0xFFFFFFFFFFFFFFFF, 2)
    assert original == current == image.stat().st_size - 512 == 21 * MIB
    assert summed == vhd_checksum(footer)
    assert image.read_bytes()[:-512] == (tmp_path / "disk-azure").read_bytes()
    told = run("vhdiinfo", image).stdout
    assert "Fixed" in told
    assert "21 MiB (22020096 bytes)" in told
    assert str(stage.uuid("vhd")) in told.lower()
    assert dissected(image) == hashlib.sha256((tmp_path / "disk-azure").read_bytes()).hexdigest()


def dissected(image: Path) -> str:
    """The digest of the disk as dissect reads it."""
    from dissect.hypervisor.disk.vhd import VHD

    digest = hashlib.sha256()
    with image.open("rb") as file:
        disk = VHD(file)
        while block := disk.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def test_a_vhd_without_its_footer_is_heard(make: Make) -> None:
    image = make("azure").directory / "web.vhd"
    os.truncate(image, image.stat().st_size - 512)
    assert run("vhdiinfo", image).returncode != 0


def test_two_vhds_of_a_disk_are_the_same(make: Make) -> None:
    one, other = make("azure"), make("azure", again="2")
    assert (one.directory / "web.vhd").read_bytes() == (other.directory / "web.vhd").read_bytes()


def test_a_vhd_is_whole_mebibytes(make: Make) -> None:
    with pytest.raises(BundleError, match="multiple of 1 MiB"):
        make("azure", size=MIB + 512)


@pytest.mark.parametrize(
    ("generation", "table", "parts"), [("1", "mbr", ["root"]), ("2", "gpt", ["bios-boot", "esp", "root"])]
)
def test_the_generation_says_how_a_machine_boots(make: Make, generation: str, table: str, parts: list[str]) -> None:
    layout = recipe_of("azure", values={"generation": generation}).layout
    assert layout is not None
    assert (layout.table, [part.kind for part in layout.parts]) == (table, parts)
    image = read(make("azure", generation=generation), "image.json")
    assert image["properties"]["hyperVGeneration"] == f"V{generation}"


# OpenStack, DigitalOcean: qcow2 and JSON.

METADEFS = {
    "disk_format": {"raw", "vhd", "vhdx", "vmdk", "vdi", "iso", "ploop", "qcow2", "aki", "ari", "ami"},
    "container_format": {"bare", "ovf", "ova", "aki", "ari", "ami", "docker", "compressed"},
    "visibility": {"public", "private", "shared", "community"},
    "hw_disk_bus": {"scsi", "virtio", "uml", "xen", "ide", "usb", "fdc", "sata", "lxc"},
    "hw_scsi_model": {"auto", "buslogic", "lsilogic", "lsisas1068", "vmpvscsi", "ibmvscsi", "virtio-scsi"},
    "hw_vif_model": {"e1000", "e1000e", "ne2k_pci", "netfront", "pcnet", "rtl8139", "spapr-vlan", "virtio", "vmxnet3"},
    "hw_firmware_type": {"bios", "uefi"},
    "hw_rng_model": {"virtio"},
    "hw_qemu_guest_agent": {"yes", "no"},
}
"""What Glance (etc/metadefs, and the formats in its manual) knows as values of an image's properties."""


def glance(path: Path) -> str:
    """The format that Glance and Nova find in an image, once they hold it for harmless."""
    from oslo_utils.imageutils import format_inspector

    found = format_inspector.detect_file_format(str(path))
    found.safety_check()
    return str(found)


@pytest.mark.parametrize("bus", ["virtio", "scsi"])
def test_openstack_takes_the_image(make: Make, tmp_path: Path, bus: str) -> None:
    stage = make("openstack", bus=bus, size=GIB + MIB)
    image = stage.directory / "web.qcow2"
    assert glance(image) == "qcow2"
    assert run("qemu-img", "check", image).returncode == 0
    assert same(image, "qcow2", tmp_path / "disk-openstack")
    told = read(stage, "image.json")
    for name, known in METADEFS.items():
        assert told.get(name, next(iter(known))) in known
    assert told["min_disk"] == 2
    assert (told["os_distro"], told["os_version"]) == ("debian", "bookworm")
    extra = {name: value for name, value in told.items() if name not in ("min_disk", "min_ram")}
    assert all(isinstance(value, str) for value in extra.values())


def test_an_image_over_another_is_refused_by_openstack(make: Make, tmp_path: Path) -> None:
    image = make("openstack").directory / "web.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2", tmp_path / "over.qcow2")
    with pytest.raises(Exception, match="Safety checks failed"):
        glance(tmp_path / "over.qcow2")


def test_digitalocean_takes_the_image(make: Make, tmp_path: Path) -> None:
    stage = make("digitalocean")
    packed = stage.directory / "web.qcow2.gz"
    run("gzip", "--decompress", "--keep", packed)
    assert run("qemu-img", "check", packed.with_suffix("")).returncode == 0
    assert same(packed.with_suffix(""), "qcow2", tmp_path / "disk-digitalocean")
    assert read(stage, "image.json")["distribution"] == "Debian"
    packed.write_bytes(packed.read_bytes()[:-9])
    assert run("gzip", "--test", packed).returncode != 0


# Proxmox: a script, run with a stub that records.

QM = """#!/bin/sh
echo "$@" >>"$RECORD"
case "$*" in *"$REFUSE"*) exit 3 ;; esac
"""


def create_vm(script: Path, directory: Path, *words: str, refuse: str = "nothing") -> tuple[int, list[list[str]]]:
    """The exit status of the *script*, and what it has told qm."""
    stub, record = directory / "qm", directory / "record"
    record.unlink(missing_ok=True)
    stub.write_text(QM)
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "RECORD": str(record), "REFUSE": refuse}
    done = run("sh", script, *words, env=environment)
    lines = record.read_text().splitlines() if record.exists() else []
    return done.returncode, [line.split() for line in lines]


@pytest.mark.parametrize("more", [{}, {"firmware": "uefi", "cloudinit": "yes", "agent": "yes"}])
def test_proxmox_is_told_to_make_a_machine(make: Make, tmp_path: Path, more: dict[str, str]) -> None:
    stage = make("proxmox", **more)
    script, image = stage.directory / "create-vm.sh", stage.directory / "web.qcow2"
    assert run("shellcheck", script).stdout == ""
    assert run("qemu-img", "check", image).returncode == 0
    status, told = create_vm(script, tmp_path, "123", "tank")
    assert status == 0
    assert [words[:2] for words in told[:2]] == [["create", "123"], ["set", "123"]]
    assert ["set", "123", "--scsi0", f"tank:0,import-from={image},discard=on"] in told
    assert ["set", "123", "--boot", "order=scsi0"] in told
    assert any("--efidisk0" in words for words in told) == bool(more)
    assert any("tank:cloudinit" in words for words in told) == bool(more)


def test_what_proxmox_refuses_is_taken_away_again(make: Make, tmp_path: Path) -> None:
    stage = make("proxmox")
    script = stage.directory / "create-vm.sh"
    status, told = create_vm(script, tmp_path, "123", refuse="import-from")
    assert status == 3
    assert told[-1] == ["destroy", "123", "--purge"]
    assert create_vm(script, tmp_path, "123", refuse="create 123") == (3, told[:1])  # it was somebody else's
    assert create_vm(script, tmp_path) == (2, [])
    script.write_text(script.read_text().replace("$image,discard", "$images,discard"))
    assert "images" in run("shellcheck", script).stdout


# libvirt: its own schema, and its own parser.


@pytest.mark.parametrize("more", [{}, {"firmware": "uefi", "type": "qemu", "network": "", "machine": "pc"}])
def test_libvirt_takes_the_domain(make: Make, more: dict[str, str]) -> None:
    stage = make("libvirt", **more)
    domain = stage.directory / "web.xml"
    done = run("virt-xml-validate", domain, "domain")
    assert done.returncode == 0, done.stderr
    done = run("virsh", "-c", "test:///default", "define", "--validate", domain)
    assert done.returncode == 0, done.stderr
    assert run("qemu-img", "check", stage.directory / "web.qcow2").returncode == 0
    text = domain.read_text()
    assert str(stage.directory) not in text
    assert "<uuid>" not in text


def test_a_wrong_domain_is_heard(make: Make) -> None:
    domain = make("libvirt").directory / "web.xml"
    domain.write_text(domain.read_text().replace("<vcpu>2</vcpu>", "<vcpu>two</vcpu>"))
    assert run("virt-xml-validate", domain, "domain").returncode != 0
    assert run("virsh", "-c", "test:///default", "define", domain).returncode != 0


@pytest.mark.parametrize("name", ["ami", "azure", "digitalocean", "gce", "libvirt", "openstack", "proxmox"])
def test_a_bundle_is_the_same_when_it_is_made_again(make: Make, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    size = GIB if name == "gce" else 21 * MIB
    one, other = make(name, size=size), make(name, size=size, again="2")
    assert [one.digest(file) for file in one.made] == [other.digest(file) for file in other.made]


def test_formats_are_found() -> None:
    assert {"ami", "ami-instance-store"} <= set(Formats().names())
