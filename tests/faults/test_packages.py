"""A packages step that fails: the manager's own message at the spec's line, nothing lost; the next build resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guests.apt import apt_guest
from tests.guests.project import Done, Project
from tests.mirrors.small import Mirror, small

pytestmark = pytest.mark.vm


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with small(tmp_path / "mirror") as made:
        yield made


def test_a_transaction_that_fails(project: Project, mirror: Mirror) -> None:
    """A package that is not there, one that the disk has no room for, one that comes damaged; then a good one."""
    archive, digest = apt_guest(project.specs)
    (project.specs / "good.asc").write_bytes((mirror.keys / "good.asc").read_bytes())
    path = project.specs / "small.xml"

    # The proxy lets guests reach the host's own servers where the user names them.
    step = mirror.repository("one").replace(mirror.url, "${mirror}")

    def build(package: str, status: int = 1) -> Done:
        path.write_text(
            '<filesystem xmlns="urn:sfvm:1" name="small">\n<param name="mirror"/><disk size="100M" format="ext4"/>\n'
            f'<base><archive from="{archive.name}" sha256="{digest}" distribution="debian"/></base>\n'
            f'<steps>\n{step}\n<packages install="some"/>\n<packages install="{package}"/>\n'
            "</steps>\n</filesystem>\n"
        )
        return project.sfvm("build", "small", "--param", f"mirror={mirror.url}", status=status)

    for package, said in (
        ("nothing", "Unable to locate package nothing"),
        ("big", "No space left on device"),
        ("bad-other", "Hash Sum mismatch"),
    ):
        mirror.faults = {"/bad-other_": "other"}
        done = build(package)
        assert f"{path}:7:1: node small: step 3 of 3 failed: packages install {package}" in done.stderr
        assert said in done.stderr
        (started,) = done.all("NodeStarted")
        assert started["first"] == (1 if package == "nothing" else 3)
        project.sound()
    mirror.faults.clear()
    resumed = build("bad-other", status=0)
    assert [event["first"] for event in resumed.all("NodeStarted")] == [3]
    assert project.cat("small", "/usr/share/some") == "1"
    assert project.cat("small", "/usr/share/bad-other") == "1"
