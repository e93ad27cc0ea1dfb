"""``sfvm doctor`` on a machine that has nothing, which is what it is for."""

from __future__ import annotations

import json

import pytest

from sfvm.cli import needs

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
