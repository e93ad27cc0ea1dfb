"""VMware, VirtualBox, Hyper-V and Vagrant: what is made for them is taken by programs that we did not write, and what
is broken is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from sfvm.bundle.disk.disk import Disk
from sfvm.bundle.format import Recipe, check, expand, request
from sfvm.bundle.kernel import Kernel
from sfvm.bundle.stage import Stage, Unfit
from sfvm.errors import UsageError
from tests.guests.project import Project
from tests.peers import disks, machines
from tests.peers.machines import add_box, check_ovf, cot, domain, v2v

MIB = 1 << 20
SIZE = 65 * MIB
FACTS = {"distribution": "debian", "release": "bookworm", "architecture": "x86_64"}
PROVIDERS = {"vagrant-virtualbox": "virtualbox", "vagrant-vmware": "vmware_desktop", "vagrant-libvirt": "libvirt"}
FORMATS = ("vmdk", "vmx", "ova", "virtualbox", "vdi", "vhdx", *PROVIDERS)

Make = Callable[..., Path]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset in (0, 9 * MIB, 64 * MIB):
            file.seek(offset)
            file.write(f"data at {offset}\n".encode() * 9000)
    return path


def recipe(name: str, values: Mapping[str, str]) -> Recipe:
    return expand(request(name, values), "web", FACTS)


@pytest.fixture
def make(tmp_path: Path, disk: Path) -> Make:
    """Makes the artifacts of a format, around a disk that needs no VM; returns their directory."""

    def made(name: str, **values: str) -> Path:
        directory = tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}"
        directory.mkdir()
        wanted = recipe(name, values)
        facts = {"name": "web", "key": "0" * 64, "settings": dict(wanted.settings), "facts": FACTS, "packages": [],
                 "disk": SIZE, "root_uuid": "", "arguments": "", "kernel": ""}  # fmt: skip
        stage = Stage(directory, Disk(disk), None, lambda fraction: None, facts, identity=uuid.UUID(int=1), epoch=7)
        for verb in wanted.outputs:
            verb.make(stage)
        return directory

    return made


def unpacked(package: Path) -> Path:
    directory = package.parent / "unpacked"
    directory.mkdir()
    subprocess.run(["tar", "-C", directory, "-xf", package], check=True)
    return directory


def packed(directory: Path, *names: str) -> Path:
    target = directory / "again.ova"
    subprocess.run(["tar", "--format=gnu", "-C", directory, "-cf", target, *names], check=True)
    return target


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text, count=1))


OVAS = [
    ("ova", {}),
    ("ova", {"controller": "lsilogic", "nic": "e1000", "firmware": "efi", "hardware": "19", "digest": "sha1"}),
    ("ova", {"controller": "ahci", "memory": "513", "cpus": "1", "network": "<a & b>"}),
    ("virtualbox", {}),
    ("virtualbox", {"controller": "ide", "digest": "sha1"}),
]


@pytest.mark.parametrize(("name", "values"), OVAS)
def test_an_ova_is_what_importers_take(make: Make, disk: Path, name: str, values: dict[str, str]) -> None:
    package = make(name, **values) / "web.ova"
    with tarfile.open(package) as archive:
        assert archive.getnames() == ["web.ovf", "web.mf", "web-disk1.vmdk"]  # so, and so only
        assert not archive.pax_headers
    inside = unpacked(package)
    check_ovf(inside / "web.ovf")
    told = v2v("ova", package)
    assert f"memory: {int(values.get('memory', '1024')) * MIB} (bytes)" in told
    assert f"nr vCPUs: {values.get('cpus', '2')}" in told
    bus = {"ide": "ide", "ahci": "sata"}.get(recipe(name, values).settings["controller"], "scsi")
    assert f"0 [{bus}]" in told
    assert disks.same(disk, inside / "web-disk1.vmdk")
    assert f'ovf:capacity="{SIZE // MIB}"' in (inside / "web.ovf").read_text()


def test_the_firmware_is_understood(make: Make) -> None:
    assert "firmware: uefi" in v2v("ova", make("ova", firmware="efi") / "web.ova")
    assert "firmware: bios" in v2v("ova", make("ova") / "web.ova")


@pytest.mark.parametrize("name", ["ova", "virtualbox"])
def test_cot_finds_nothing_wrong(make: Make, name: str) -> None:
    """It knows manifests of OVF 1 with SHA-1 only."""
    told = cot(make(name, digest="sha1") / "web.ova")
    assert "65 MiB" in told
    with pytest.raises(machines.Refused, match="expected"):
        cot(make(name) / "web.ova")


def test_a_broken_ova_is_refused(make: Make) -> None:
    inside = unpacked(make("ova", digest="sha1") / "web.ova")
    names = ("web.ovf", "web.mf", "web-disk1.vmdk")
    v2v("ova", packed(inside, *names))
    with (inside / "web-disk1.vmdk").open("ab") as file:
        file.write(bytes(512))  # as after qemu-img's last grain
    for judge in (cot, lambda package: v2v("ova", package)):
        with pytest.raises(machines.Refused):
            judge(packed(inside, *names))
    (inside / "web-disk1.vmdk").unlink()
    with pytest.raises(machines.Refused):
        cot(packed(inside, *names[:2]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"(<rasd:ElementName>.*\n)(.*<rasd:InstanceID>.*\n)", r"\2\1"),  # the order counts
        ("<Info>Networks</Info>", ""),
        ('ovf:diskId="disk1"', ""),
        ("<rasd:ResourceType>17</rasd:ResourceType>", "<rasd:ResourceType>disk</rasd:ResourceType>"),
    ],
)
def test_a_broken_ovf_is_not_valid(make: Make, old: str, new: str) -> None:
    ovf = unpacked(make("ova") / "web.ova") / "web.ovf"
    check_ovf(ovf)
    edit(ovf, old, new)
    with pytest.raises(machines.Refused):
        check_ovf(ovf)


@pytest.mark.parametrize("controller", ["pvscsi", "lsilogic", "ahci"])
@pytest.mark.parametrize("firmware", ["bios", "efi"])
def test_a_vmx_is_what_libvirt_and_virt_v2v_read(
    make: Make, tmp_path: Path, disk: Path, controller: str, firmware: str
) -> None:
    made = make("vmx", controller=controller, firmware=firmware, nic="e1000", memory="1001")
    found = domain(made / "web.vmx", tmp_path)
    assert found.findtext("memory") == str(1004 << 10)  # four by four, says VMware
    assert (found.find("devices/disk/source").get("file"), found.findtext("vcpu")) == ("web.vmdk", "2")
    assert found.find("devices/disk/target").get("bus") == ("sata" if controller == "ahci" else "scsi")
    models = {"pvscsi": "vmpvscsi", "lsilogic": "lsilogic", "ahci": None}
    assert found.find("devices/controller").get("model") == models[controller]
    assert found.find("devices/interface/model").get("type") == "e1000"
    assert found.find("os").get("firmware") == ("efi" if firmware == "efi" else None)
    v2v("vmx", made / "web.vmx")
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "vmdk", disk, made / "web.vmdk"], check=True)
    assert disks.same(disk, made / "web.vmdk")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('virtualHW.version = "14"', 'virtualHW.version = "3"'),
        ("pvscsi", "scsi-of-mine"),
        ('memsize = "1024"', "memsize"),
    ],
)
def test_a_broken_vmx_is_refused(make: Make, tmp_path: Path, old: str, new: str) -> None:
    vmx = make("vmx") / "web.vmx"
    edit(vmx, old, new)
    with pytest.raises(machines.Refused):
        domain(vmx, tmp_path)


@pytest.mark.parametrize(
    ("subformat", "names"),
    [
        ("streamOptimized", ["web.vmdk"]),
        ("monolithicSparse", ["web.vmdk"]),
        ("monolithicFlat", ["web-flat.vmdk", "web.vmdk"]),
        ("twoGbMaxExtentSparse", ["web-s001.vmdk", "web.vmdk"]),
        ("twoGbMaxExtentFlat", ["web-f001.vmdk", "web.vmdk"]),
    ],
)
@pytest.mark.parametrize("adapter", ["lsilogic", "buslogic", "ide"])
def test_every_kind_of_vmdk_is_read(make: Make, disk: Path, subformat: str, names: list[str], adapter: str) -> None:
    made = make("vmdk", subformat=subformat, adapter=adapter, hardware="13")
    assert sorted(path.name for path in made.iterdir()) == names
    assert disks.same(disk, made / "web.vmdk")
    told = subprocess.run([machines.tool("vmdkinfo"), made / "web.vmdk"], capture_output=True, text=True, check=True)
    assert f"({SIZE} bytes)" in told.stdout
    text = (made / "web.vmdk").read_bytes()[:8192]
    assert f'ddb.adapterType = "{adapter}"'.encode() in text
    assert b'ddb.virtualHWVersion = "13"' in text


@pytest.mark.parametrize(("name", "kind"), [("vdi", "vdi"), ("vhdx", "vhdx")])
def test_a_disk_is_what_7zip_reads(make: Make, disk: Path, tmp_path: Path, name: str, kind: str) -> None:
    image = make(name) / f"web.{kind}"
    assert disks.unpacked(image, kind, tmp_path / "7").read_bytes() == disk.read_bytes()
    assert kind == "vdi" or disks.same(disk, image)
    with image.open("r+b") as file:
        file.seek(0x44 if kind == "vdi" else 192 << 10)
        file.write(b"\xff" * 8)
    with pytest.raises(disks.Refused):
        disks.unpacked(image, kind, tmp_path / "broken")


def test_the_blocks_of_a_vhdx_are_small(make: Make) -> None:
    """1 MiB, as Microsoft advises for ext4; it is the first item of its metadata (MS-VHDX, section 2.6.2.1)."""
    told = subprocess.run(["qemu-img", "info", make("vhdx") / "web.vhdx"], capture_output=True, text=True, check=True)
    assert f"cluster_size: {MIB}" in told.stdout


def test_the_script_of_hyper_v_knows_the_generation(make: Make) -> None:
    second = (make("vhdx", switch="Bob's") / "import.ps1").read_text()
    assert "-Generation 2 -MemoryStartupBytes 1024MB" in second
    assert "-EnableSecureBoot Off" in second
    assert "= 'Bob''s'" in second
    first = (make("vhdx", generation="1", memory="512") / "import.ps1").read_text()
    assert "-Generation 1 -MemoryStartupBytes 512MB" in first
    assert "SecureBoot" not in first


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_box_is_what_vagrant_takes(make: Make, disk: Path, tmp_path: Path, name: str) -> None:
    box = make(name) / "web.box"
    found = add_box(box, tmp_path / "home", PROVIDERS[name])
    assert json.loads((found / "metadata.json").read_text())["provider"] == PROVIDERS[name]
    subprocess.run([shutil.which("ruby") or "ruby", "-c", found / "Vagrantfile"], check=True, capture_output=True)
    if name == "vagrant-virtualbox":
        check_ovf(found / "box.ovf")
        assert disks.same(disk, found / "web-disk1.vmdk")
        assert re.search(r'base_mac = "080027[0-9A-F]{6}"', (found / "Vagrantfile").read_text())
    elif name == "vagrant-vmware":
        assert domain(found / "web.vmx", tmp_path).findtext("vcpu") == "2"
        assert disks.same(disk, found / "web.vmdk")
    else:
        assert json.loads((found / "metadata.json").read_text())["virtual_size"] == 1  # whole GiB, upwards
        subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", disk, found / "box.img"], check=True)
        told = subprocess.run(["qemu-img", "info", "--output=json", found / "box.img"], capture_output=True, check=True)
        assert "backing-filename" not in json.loads(told.stdout)


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_broken_box_is_refused(make: Make, tmp_path: Path, name: str) -> None:
    box = make(name) / "web.box"
    inside = unpacked(box)
    for broken in ("{}", '{"provider": "another"}', "no JSON"):
        (inside / "metadata.json").write_text(broken)
        again = packed(inside, *sorted(path.name for path in inside.iterdir() if path.suffix != ".ova"))
        with pytest.raises(machines.Refused):
            add_box(again, tmp_path / "home", PROVIDERS[name])
    box.write_bytes(box.read_bytes()[: box.stat().st_size // 2])
    with pytest.raises(machines.Refused):
        add_box(box, tmp_path / "home", PROVIDERS[name])


SMALL = Kernel(
    "6.1.0-1-cloud-amd64",
    initramfs=frozenset({"vmw_pvscsi", "sd_mod", "ata_piix", "virtio_blk", "virtio_pci"}),
    modules=frozenset({"vmxnet3", "virtio_net", "hv_netvsc"}),
)
"""Less than Debian's cloud kernel has, which knows Hyper-V's disks, too."""
SSH = frozenset({"openssh-server", "sudo"})


@pytest.mark.parametrize(
    ("name", "values", "lacking"),
    [
        ("ova", {}, ""),
        ("ova", {"controller": "lsilogic"}, "mptspi"),
        ("ova", {"controller": "ahci"}, "ahci"),
        ("vmx", {"nic": "e1000"}, "e1000"),
        ("virtualbox", {"controller": "ide"}, "e1000"),
        ("virtualbox", {}, "ahci"),
        ("vdi", {}, ""),
        ("vmdk", {}, ""),
        ("vhdx", {"generation": "1"}, ""),
        ("vhdx", {"generation": "2"}, "hv_storvsc"),
        ("vagrant-libvirt", {}, ""),
        ("vagrant-virtualbox", {}, "ahci"),
        ("vagrant-vmware", {}, ""),
    ],
)
def test_a_guest_without_the_drivers_is_refused(name: str, values: dict[str, str], lacking: str) -> None:
    if not lacking:
        check(recipe(name, values), SMALL, SSH)
        return
    with pytest.raises(Unfit) as told:
        check(recipe(name, values), SMALL, SSH)
    assert lacking in (told.value.why or "")


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_box_is_reached_by_ssh(name: str) -> None:
    full = Kernel("6", modules=frozenset({"e1000", "vmxnet3", "virtio_net"}),
                  initramfs=frozenset({"sd_mod", "ahci", "vmw_pvscsi", "virtio_pci", "virtio_blk"}))  # fmt: skip
    check(recipe(name, {}), full, SSH)
    with pytest.raises(Unfit, match="does not fit") as told:
        check(recipe(name, {}), full, frozenset({"sudo"}))
    assert "openssh-server" in (told.value.why or "")


@pytest.mark.parametrize(
    ("name", "param", "value"), [("ova", "hardware", "9"), ("vhdx", "generation", "3"), ("vmx", "memory", "1G")]
)
def test_what_a_platform_does_not_have_is_refused(name: str, param: str, value: str) -> None:
    with pytest.raises(UsageError):
        recipe(name, {param: value})


@pytest.mark.vm
def test_a_node_becomes_all_of_them_and_twice_the_same(project: Project, tmp_path: Path) -> None:
    for where in ("one", "two"):
        project.sfvm(
            "bundle", "busybox", *FORMATS, "--set", "boot=none", "--output", where,
            environment={"SOURCE_DATE_EPOCH": "1700000000"}, timeout=500,
        )  # fmt: skip
    one, two = ({str(path.relative_to(project.home / where)): path for path in (project.home / where).glob("*/*")}
                for where in ("one", "two"))  # fmt: skip
    assert one.keys() == two.keys()
    differ = [name for name in one if subprocess.run(["cmp", "-s", one[name], two[name]], check=False).returncode]
    assert differ == []
    made = project.home / "one"
    v2v("ova", made / "busybox-ova" / "busybox.ova")
    stream = unpacked(made / "busybox-ova" / "busybox.ova") / "busybox-disk1.vmdk"
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", stream, raw], check=True)
    table = subprocess.run([machines.tool("sfdisk"), "--verify", raw], capture_output=True, text=True, check=True)
    assert "No errors" in table.stdout
    others = ("vmx/busybox.vmdk", "vdi/busybox.vdi", "vhdx/busybox.vhdx", "vmdk/busybox.vmdk")
    for image in (made / f"busybox-{other}" for other in others):
        subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", image.suffix[1:], raw, image], check=True)
