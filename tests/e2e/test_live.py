"""The formats that a small Debian does not fit, made of ``debian-live`` in one command: taken by programs that we did
not write; the live ones booted to their login prompt from a CD, a stick, the network, and a read-only root."""

from __future__ import annotations

import functools
import gzip
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from lxml import etree

from sfvm.boot.qemu import boot, netboot
from tests.e2e.conftest import BOOT_SECONDS, BUILD_SECONDS, prompts
from tests.guests.project import Project
from tests.peers.machines import add_box, check_ovf, domain, v2v
from tests.peers.tools import tool

pytestmark = pytest.mark.e2e
FORMATS = ("ami-instance-store", "digitalocean", "iso", "netboot", "squashfs", "vagrant-libvirt",
           "vagrant-virtualbox", "vagrant-vmware", "virtualbox")  # fmt: skip
READONLY = """<format xmlns="urn:sfvm:1" name="readonly"><summary>a root that nothing writes to</summary>
<layout table="gpt"><bios-boot/><data size="200M" mount="/boot"/><root format="erofs"/>
<boot loader="grub" console="tty0 ttyS0"/></layout><convert to="qcow2" as="disk.qcow2"/></format>"""
LOGIN = "(automatic login)"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Tells nobody what it serves."""

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def served(directory: Path) -> Iterator[str]:
    """The URI of *directory*, as QEMU's guests see it."""
    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://10.0.2.2:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(debian: Project) -> Iterator[str]:
    """Where the bundle for the network will be found."""
    with served(debian.home / "live" / "debian-live-netboot") as uri:
        yield uri


@pytest.fixture(scope="module")
def live(debian: Project, keys: Path, server: str) -> Path:
    """Where the bundles are."""
    own = debian.home / "own-formats"
    own.mkdir()
    (own / "readonly.xml").write_text(READONLY)
    settings = ("level=1", "root=squashfs", f"server={server}", "user=123456789012", f"private_key={keys / 'user.key'}",
                f"certificate={keys / 'user.pem'}", f"ec2_certificate={keys / 'cloud.pem'}")  # fmt: skip
    words = ["bundle", "debian-live", *FORMATS, "readonly"]
    words += [word for setting in settings for word in ("--set", setting)]
    out = debian.home / "live"
    debian.sfvm("build", "debian-live", "--param", "vagrant=yes", timeout=BUILD_SECONDS)
    debian.sfvm(*words, "--output", str(out), timeout=BUILD_SECONDS, environment={"SFVM_FORMATS": str(own)})
    return out


def bundle(live: Path, name: str) -> Path:
    return live / f"debian-live-{name}"


@pytest.fixture(scope="module")
def consoles(live: Path, server: str) -> Iterator[dict[str, Future[str]]]:
    """What the consoles of all have shown. Each boots while the one before is looked at."""
    start = functools.partial(boot, until=[LOGIN], deadline=BOOT_SECONDS)
    iso = bundle(live, "iso") / "debian-live.iso"

    boots: dict[str, Callable[[], str]] = {
        "cd-bios": lambda: start(iso, "bios", controller="cd"),
        "stick-uefi": lambda: start(iso, "uefi", controller="usb"),
        "network": lambda: netboot(f"{server}boot.ipxe", until=[LOGIN], deadline=BOOT_SECONDS),
        "readonly": lambda: start(bundle(live, "readonly") / "disk.qcow2", "bios", controller="ahci", nic="e1000"),
    }
    with ThreadPoolExecutor(1) as pool:
        yield {name: pool.submit(machine) for name, machine in boots.items()}


@pytest.mark.parametrize("name", ["cd-bios", "stick-uefi", "network", "readonly"])
def test_it_boots_to_a_login_prompt(consoles: dict[str, Future[str]], name: str) -> None:
    console = consoles[name].result()
    assert prompts("debian-live", console)
    if name == "readonly":
        assert "erofs: (device sda3): mounted" in console
    else:  # systemd-resolved wants a /var that can be written to
        assert "Failed to start" not in console


def run(name: str, *words: str | Path) -> str:
    done = subprocess.run([tool(name), *map(str, words)], check=True, capture_output=True, text=True)
    return done.stdout


def test_the_files_are_on_the_cd_and_in_the_squashfs(live: Path, tmp_path: Path) -> None:
    iso = bundle(live, "iso") / "debian-live.iso"
    told = run("xorriso", "-indev", iso, "-report_el_torito", "plain")
    assert "boot img :   1  BIOS  y" in told
    assert "boot img :   2  UEFI  y" in told
    squashfs = bundle(live, "squashfs") / "debian-live.squashfs"
    listing = run("unsquashfs", "-ll", squashfs)
    assert "squashfs-root/usr/lib/systemd/systemd" in listing
    assert run("unsquashfs", "-cat", squashfs, "etc/hostname") == "debian-live\n"
    run("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/live/filesystem.squashfs", tmp_path / "on-cd")
    assert (tmp_path / "on-cd").read_bytes() == squashfs.read_bytes()  # made twice, and the same


@pytest.mark.parametrize(("name", "provider"), [("libvirt", "libvirt"), ("virtualbox", "virtualbox"),
                                                ("vmware", "vmware_desktop")])  # fmt: skip
def test_vagrant_takes_the_boxes(live: Path, tmp_path: Path, name: str, provider: str) -> None:
    found = add_box(bundle(live, f"vagrant-{name}") / "debian-live.box", tmp_path / "home", provider)
    assert json.loads((found / "metadata.json").read_text())["provider"] == provider
    if name == "vmware":
        assert domain(found / "debian-live.vmx", tmp_path).findtext("vcpu") == "2"


def test_virtualbox_gets_what_importers_take(live: Path, tmp_path: Path) -> None:
    package = bundle(live, "virtualbox") / "debian-live.ova"
    assert "0 [sata]" in v2v("ova", package)
    run("tar", "-C", tmp_path, "-xf", package, "debian-live.ovf")
    check_ovf(tmp_path / "debian-live.ovf")


def test_digitalocean_gets_a_disk_and_a_description(live: Path, tmp_path: Path) -> None:
    qcow2 = tmp_path / "disk.qcow2"
    with gzip.open(bundle(live, "digitalocean") / "debian-live.qcow2.gz") as packed, qcow2.open("wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    run("qemu-img", "check", qcow2)
    assert json.loads((bundle(live, "digitalocean") / "image.json").read_text())["name"] == "debian-live"


def test_the_cloud_of_an_instance_store_finds_the_disk(live: Path, keys: Path, tmp_path: Path) -> None:
    directory, disk = bundle(live, "ami-instance-store"), tmp_path / "disk"
    image = etree.parse(directory / "debian-live.manifest.xml").find("image")
    key, vector = (
        subprocess.run(
            [tool("openssl"), "pkeyutl", "-decrypt", "-inkey", keys / "cloud.key"],
            input=bytes.fromhex(image.findtext(f"ec2_encrypted_{name}")), capture_output=True, check=True,
        ).stdout.decode()
        for name in ("key", "iv")
    )  # fmt: skip
    parts = [part.text for part in image.iterfind("parts/part/filename")]
    script = """set -o pipefail; key=$1 iv=$2 disk=$3; shift 3
    cat "$@" | openssl enc -d -aes-128-cbc -K $key -iv $iv | gzip -dc | tar -xOf - debian-live |
    dd of=$disk bs=64K conv=sparse iflag=fullblock status=none"""
    subprocess.run(["bash", "-c", script, "bash", key, vector, disk, *parts], cwd=directory, check=True)
    assert disk.stat().st_size == int(image.findtext("size"))
    assert "No errors" in run("sfdisk", "--verify", disk)
