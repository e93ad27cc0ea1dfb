"""The no-KVM profile and restored appliances change nothing in what is built: compared file by file."""

import dataclasses
import subprocess
import tarfile
from pathlib import Path

import pytest

from sfvm import config, tree
from sfvm.appliance import acceleration, profile
from sfvm.appliance.machine import Drive, Shape, start
from sfvm.appliance.profile import TCG, V2, V3
from sfvm.build import build
from sfvm.bundle import bundle
from sfvm.bundle.format import request
from sfvm.events import ignore
from sfvm.spec.library import Library

PLAIN = dataclasses.replace(TCG, emulated=False, kernel="")
"""Emulation as libguestfs does it: its CPU model and kernel arguments."""


@pytest.mark.parametrize(
    ("facts", "needs"),
    [
        ({}, V2),
        ({"distribution": "debian", "release": "bookworm"}, V2),
        ({"distribution": "rhel", "release": "9.4"}, V2),
        ({"distribution": "rhel", "release": "10"}, V3),
        ({"distribution": "centos", "release": "10-stream"}, V3),
        ({"distribution": "fedora", "release": "43"}, V2),
    ],
)
def test_the_cpu_model_covers_what_a_guest_is_compiled_for(facts: dict[str, str], needs: str) -> None:
    assert profile.baseline(facts) == needs
    assert TCG.cpu(needs) == profile.CPUS[needs]
    assert profile.KVM.cpu(needs) is None


@pytest.mark.vm
@pytest.mark.parametrize("needs", [V2, V3])
def test_the_appliance_boots_with_either_and_has_what_it_says(image, tmp_path, needs):
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1G"], check=True)
    with start(image, [Drive(disk)], Shape(768, 1, baseline=needs), "direct", TCG, log=lambda line: None) as appliance:
        levels = appliance.run("/lib64/ld-linux-x86-64.so.2 --help")
    assert f"{needs} (supported, searched)" in levels
    assert (f"{V3} (supported" in levels) == (needs == V3)


def described(archive: Path) -> dict[str, tuple[object, ...]]:
    """Every file of a tar archive with all that it is, but for its times."""
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(archive) as opened:
        for member in opened:
            content = opened.extractfile(member).read() if member.isreg() else b""
            extended = sorted((key, value) for key, value in member.pax_headers.items() if "time" not in key)
            found[member.name] = (
                member.type, member.mode, member.uid, member.gid, member.linkname, extended, content,
            )  # fmt: skip
    return found


@pytest.mark.vm
def test_both_ways_build_the_same_tree(project, monkeypatch):
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    project.write(
        "lower",
        "busybox",
        '<group name="staff" gid="50"/>',
        '<user name="carol" uid="1234" shell="/bin/sh" groups="staff"/>',
        '<directory path="/srv/data" mode="2775" owner="carol:staff"/>',
        '<file path="/srv/data/file" mode="0640" owner="carol:staff">content\n</file>',
        '<symlink path="/srv/link" target="data/file"/>',
    )
    program = (
        "set -e; i=0; while [ $i -lt 200 ]; do echo $i $((i * i)); i=$((i + 1)); done | gzip -n >/srv/numbers.gz;"
        "awk 'BEGIN { for (i = 1; i &lt; 50; i++) printf \"%.17g %.17g\\n\", i / 7, 1 / (i + 0.1) }' >/srv/floats;"
        "cd /srv; sha256sum numbers.gz floats >sums; ln floats hard; mkfifo -m 600 pipe"
    )
    project.write(
        "upper", "lower", f'<run network="no">{program}</run>', '<edit path="/srv/sums"><line text="end"/></edit>'
    )
    made = {}
    for way, used, warm in (("plain", PLAIN, False), ("profile", TCG, False), ("restored", TCG, True)):
        monkeypatch.setattr(acceleration, "prove", lambda *_, used=used: used)
        repository = project.home / way
        settings = config.load(specs=[project.specs], repository=repository, connection="direct", warm=warm)
        made[way] = contents(settings, project.home / f"out-{way}")
    assert made["plain"].keys() == made["profile"].keys()
    assert made["plain"] == made["profile"] == made["restored"]
    assert made["plain"]["./srv/sums"][-1].count(b"\n") == 3


def contents(settings: config.Settings, output: Path) -> dict[str, tuple[object, ...]]:
    """Build ``upper`` and bundle it as tar."""
    from sfvm.repository import Repository

    repository = Repository(settings.repository)
    nodes = tree.resolve(Library(settings.specs), ["upper"], {})
    build(tree.plan(nodes, ["upper"], repository), repository, settings, ignore)
    key = nodes[-1].key
    wanted = request("tar", {"compression": "none"})
    bundle("upper", repository.manifest(key), [wanted], output, repository, settings, ignore)
    archive = output / "upper-tar" / "upper.tar"
    subprocess.run(["tar", "tf", archive], check=True, stdout=subprocess.DEVNULL)
    return described(archive)
