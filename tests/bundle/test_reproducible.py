"""The same node, bundled twice, is the same bytes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.guests.project import Project

pytestmark = pytest.mark.vm

FORMATS = ("raw", "qcow2", "tar", "squashfs", "oci", "ova", "xva")


def artifacts(directory: Path) -> dict[str, bytes]:
    return {
        f"{bundle.name}/{path.name}": path.read_bytes()
        for bundle in sorted(directory.iterdir())
        for path in sorted(bundle.iterdir())
    }


def test_a_node_bundled_twice_is_byte_identical(project: Project) -> None:
    for where in ("one", "two"):
        project.sfvm(
            "bundle", "busybox", *FORMATS, "--set", "boot=none", "--output", where,
            environment={"SOURCE_DATE_EPOCH": "1700000000"},
        )  # fmt: skip
    one, two = (artifacts(project.home / where) for where in ("one", "two"))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []


def test_archives_are_equal_though_clocks_are_late(project: Project) -> None:
    """What bundling changes gets the node's time, whatever the helper VM's clock says."""
    project.write("machine", "busybox", f'<file path="/etc/machine-id">{"0123456789abcdef" * 2}\n</file>')
    project.sfvm("build", "machine")
    tomorrow = str(int(time.time()) + 86400)
    for where in ("one", "two"):
        project.sfvm("bundle", "machine", "oci", "tar", "--output", where, environment={"SOURCE_DATE_EPOCH": tomorrow})
    one, two = (artifacts(project.home / where) for where in ("one", "two"))
    assert one == two
