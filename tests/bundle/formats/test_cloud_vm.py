"""A tiny guest, bundled for clouds by the command line, and published."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.project import Project
from tests.guests.project import project as project_of
from tests.peers.tools import tool

pytestmark = pytest.mark.vm

FORMATS = ("ami", "azure", "digitalocean", "gce", "libvirt", "openstack", "proxmox", "raw")


@pytest.fixture(scope="module")
def bundled(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    with project_of(tmp_path_factory.mktemp("clouds"), seed) as made:
        made.sfvm("bundle", "busybox", *FORMATS, "--set", "boot=none", "--output", "out", timeout=450)
        yield made


def place(project: Project, name: str) -> Path:
    return project.home / "out" / f"busybox-{name}"


def test_every_bundle_is_whole(bundled: Project) -> None:
    for name in FORMATS:
        command = [tool("sha256sum"), "--quiet", "--check", "SHA256SUMS"]
        assert subprocess.run(command, cwd=place(bundled, name), check=False).returncode == 0


def test_openstack_and_proxmox_have_one_disk(bundled: Project) -> None:
    one, other = (place(bundled, name) / "busybox.qcow2" for name in ("openstack", "proxmox"))
    command = [tool("qemu-img"), "compare", "-f", "qcow2", "-F", "qcow2", one, other]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_vhd_has_partitions_where_others_find_them(bundled: Project, tmp_path: Path) -> None:
    image = place(bundled, "azure") / "busybox.vhd"
    assert image.stat().st_size % (1 << 20) == 512
    raw = tmp_path / "raw"
    subprocess.run([tool("qemu-img"), "convert", "-f", "vpc", "-O", "raw", image, raw], check=True)
    table = subprocess.run([tool("sfdisk"), "--verify", raw], capture_output=True, text=True, check=False)
    assert "No errors" in table.stdout + table.stderr


def test_the_disk_for_google_ends_with_its_gigabyte_and_the_table_with_the_disk(
    bundled: Project, tmp_path: Path
) -> None:
    subprocess.run([tool("bsdtar"), "-xSf", place(bundled, "gce") / "busybox.tar.gz", "-C", tmp_path], check=True)
    disk = tmp_path / "disk.raw"
    assert disk.stat().st_size % (1 << 30) == 0
    table = subprocess.run([tool("sfdisk"), "--verify", disk], capture_output=True, text=True, check=False)
    assert "No errors" in table.stdout + table.stderr


def test_the_disk_becomes_an_ami(bundled: Project) -> None:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        words = ("--region", "eu-central-1", "--endpoint-url", url, "--json")
        secrets = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "very-secret"}
        done = bundled.sfvm("publish", "ami", str(place(bundled, "ami")), *words, environment=secrets)
        made = json.loads(done.stdout)
        ebs = boto3.client("ebs", "eu-central-1", endpoint_url=url, aws_access_key_id="x", aws_secret_access_key="x")
        image = place(bundled, "ami") / "busybox.img"
        data = bytearray(-(-image.stat().st_size // (512 << 10)) * (512 << 10))
        for block in ebs.list_snapshot_blocks(SnapshotId=made["snapshot"])["Blocks"]:
            index, token = block["BlockIndex"], block["BlockToken"]
            answer = ebs.get_snapshot_block(SnapshotId=made["snapshot"], BlockIndex=index, BlockToken=token)
            data[index * (512 << 10) : (index + 1) * (512 << 10)] = answer["BlockData"].read()
        uploaded = hashlib.sha256(data[: image.stat().st_size]).hexdigest()
        manifest = json.loads((place(bundled, "ami") / "manifest.json").read_text())
        assert uploaded == manifest["artifacts"]["busybox.img"]["sha256"]
    finally:
        server.stop()


def test_what_needs_keys_asks_for_them(bundled: Project) -> None:
    done = bundled.sfvm("bundle", "busybox", "ami-instance-store", "--output", "more", status=1)
    assert "--set user=" in done.stderr
