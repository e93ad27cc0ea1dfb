"""``sfvm doctor`` on a machine that has nothing, which is what it is for."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sfvm.cli import needs
from sfvm.config import Settings

BARE = """
import sys
sys.modules["guestfs"] = sys.modules["libvirt"] = None  # as if not installed: import raises ImportError
from sfvm.cli import main
sys.exit(main(["doctor", *%r]))
"""


def bare(world, *arguments):
    world.environment["PATH"] = str(world.home / "bin")
    with world.python(BARE % (arguments,)) as process:
        output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_everything_missing_is_said_with_its_fix(world):
    status, output, errors = bare(world)
    assert status == 1
    assert errors == ""
    for need in ("Python binding guestfs", "qemu-system-x86_64", "qemu-img", "supermin"):
        assert f"✗ {need}" in output
    assert "fix:" in output


def test_json(world):
    status, output, _ = bare(world, "--json")
    assert status == 1
    findings = {finding["need"]: finding for finding in json.loads(output)}
    assert findings["supermin"]["state"] == "missing"
    assert "supermin" in findings["supermin"]["fix"]
    assert findings["Python binding libvirt"]["state"] == "warning"  # QEMU is started directly without it
    assert str(world.home / "repository") in findings["repository"]["detail"]


def test_libvirt_is_needed_when_it_is_asked_for(world):
    _, output, _ = bare(world, "--json", "--connection", "qemu:///session")
    findings = {finding["need"]: finding for finding in json.loads(output)}
    assert findings["Python binding libvirt"]["state"] == "missing"
    assert findings["connection"]["state"] == "missing"


def test_a_repository_that_cannot_be_written(world):
    (world.home / "file").write_text("")
    _, output, _ = bare(world, "--json", "--repository", str(world.home / "file" / "below"))
    findings = {finding["need"]: finding for finding in json.loads(output)}
    assert findings["repository"]["state"] == "missing"


@pytest.mark.parametrize(
    ("manager", "command"), [("apt", "apt-get install a b"), ("dnf", "dnf install c"), ("", "install a b (")]
)
def test_fixes_are_for_the_hosts_distribution(manager, command):
    assert command in needs.Host("a host", manager).install(apt="a b", dnf="c")


def test_this_machine(world):
    status, output, errors = bare(world, "--no-probe")
    assert "machine" in output.splitlines()[0]
    assert status in (0, 1)
    assert "Traceback" not in errors


def test_saved_appliances_are_counted(tmp_path):
    settings = Settings(tmp_path, tmp_path)
    assert "nothing saved yet" in needs._warm(settings).detail
    settings.saved_appliances.mkdir()
    (settings.saved_appliances / "0.state").write_bytes(bytes(2048))
    assert needs._warm(settings).detail == "1 saved appliance, 2.0 KiB"
    (settings.saved_appliances / "1.refused").write_text("a device cannot be migrated")
    refused = needs._warm(settings)
    assert "a device cannot be migrated" in refused.detail
    assert "sfvm gc" in refused.fix
    assert "off" in needs._warm(dataclasses.replace(settings, warm=False)).detail
