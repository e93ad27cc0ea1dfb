"""Locks of real builds: a tiny guest with apt, its child, and a mirror that goes on meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sfvm.lock import files
from sfvm.lock.model import Lock
from sfvm.repository import Manifest
from tests.guests.apt import apt_guest
from tests.guests.project import Done, Project, project
from tests.mirrors.apt import control, package, suite
from tests.mirrors.tiny import Signer, serve, signer

pytestmark = pytest.mark.vm
TINY = """<filesystem xmlns="urn:sfvm:1" name="tiny">
  <param name="mirror" default="http://127.0.0.1:1"/>
  <disk size="512M" format="ext4"/>
  <base><archive from="root.tar" sha256="{}" distribution="debian"/></base>
  <steps>
    <repository name="some" url="${{mirror}}" suites="one" components="main" keys="key.asc"/>
    <packages install="some"/>
  </steps>
</filesystem>
"""


@dataclass
class World:
    """A *project* with ``tiny`` and its ``child``; what is published below *root* is signed by *key*."""

    project: Project
    root: Path
    key: Signer
    url: str = ""

    def publish(self, version: str, **fields: str) -> None:
        """Publish every package in this *version* only."""
        for name in ("dists", "pool"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / "pool").mkdir()
        work = self.root.parent / f"work-{version}"
        shutil.rmtree(work, ignore_errors=True)
        for name in ("some", "other"):
            built = package(work, control(name, version), {f"usr/share/{name}": f"{version}\n".encode()})
            built.rename(self.root / "pool" / built.name)
        suite(self.root, "one", {"main": self.root / "pool"}, self.key, **fields)

    def sfvm(self, *words: str, home: str = "repository", **more: object) -> Done:
        """A command about the mirror, with the repository *home*."""
        given = ("--param", f"mirror={self.url}", "--repository", str(self.project.home / home))
        return self.project.sfvm(*words, *given, **more)  # type: ignore[arg-type]

    def lock(self, name: str = "child") -> Lock:
        return files.read(self.project.specs / f"{name}.lock.xml", name)

    def manifest(self, name: str, home: str = "repository") -> Manifest:
        repository = type(self.project.repository)(self.project.home / home)
        return repository.manifest(repository.names()[name])

    def elsewhere(self, home: str, *, downloads: bool) -> None:
        """An empty repository *home*, with what was downloaded, or without."""
        shutil.rmtree(self.project.home / home, ignore_errors=True)
        if downloads:
            kept = self.project.home / "repository" / "downloads"
            shutil.copytree(kept, self.project.home / home / "downloads")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Version 1 is published, ``child`` is built and locked; then version 2 is published."""
    home = tmp_path_factory.mktemp("lock")
    with signer() as key, project(home / "home") as made:
        archive, sha256 = apt_guest(home)
        archive.rename(made.specs / "root.tar")
        key.public(made.specs / "key.asc")
        (made.specs / "tiny.xml").write_text(TINY.format(sha256), encoding="utf-8")
        made.write("child", "tiny", '<packages install="other"/>')
        (home / "mirror").mkdir()
        world = World(made, home / "mirror", key)
        world.publish("1")
        with serve(home / "mirror") as url:
            world.url = url
            world.sfvm("lock", "tiny", "child")
            world.publish("2")
            yield world
            made.sound()


def test_a_lock_of_a_chain_in_one_appliance(world: World) -> None:
    lock = world.lock().by_node
    assert [(package.name, package.version) for package, _ in lock["tiny"].packages] == [("some", "1")]
    assert [(package.name, package.version) for package, _ in lock["child"].packages] == [("other", "1")]
    assert any(file.url.endswith("/InRelease") for file in lock["tiny"].files)
    assert lock["child"].files == (), "it uses the indexes that its parent has fetched"
    assert world.lock("tiny").by_node["tiny"].mapping == lock["tiny"].mapping


def test_what_was_locked_is_there(world: World) -> None:
    assert "nothing to do" in world.sfvm("build", "child", "--locked", "--offline").stderr


def alone(world: World, *words: str, home: str) -> None:
    """The same as ``World.sfvm``, where there is no network but loopback."""
    script = 'ip link set lo up && exec "$@"'
    command = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable, "-m", "sfvm.cli", *words]
    command += ["--param", f"mirror={world.url}", "--repository", str(world.project.home / home)]
    environment, where = world.project.environment, world.project.home
    done = subprocess.run(command, env=environment, cwd=where, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone makes a network namespace")
def test_built_again_without_any_network_though_the_mirror_has_gone_on(world: World) -> None:
    """Each node in an appliance of its own, which the first time they were not."""
    world.elsewhere("second", downloads=True)
    for name in ("tiny", "child"):
        alone(world, "build", name, "--locked", "--offline", home="second")
        assert world.manifest(name, "second").packages == world.manifest(name).packages
        assert all(fetched.cached for fetched in world.manifest(name, "second").fetched)
    assert world.manifest("child", "second").key != world.manifest("child").key


def test_what_is_gone_is_named(world: World) -> None:
    """Offline, and where the mirror has another version only."""
    world.elsewhere("third", downloads=False)
    kept = world.project.home / "repository" / "downloads" / "sha256"
    gone = {content.sha256 for section in world.lock().sections for _, content in section.packages}
    shutil.copytree(
        kept, world.project.home / "third" / "downloads" / "sha256", ignore=lambda _, found: gone & set(found)
    )
    for more, why in ((["--offline"], "offline"), ([], "404")):
        done = world.sfvm("build", "child", "--locked", *more, home="third", status=1)
        assert "node tiny: step 2 of 2 failed: packages install some" in done.stderr
        assert "pool/some_1_all.deb" in done.stderr
        assert why in done.stderr
    assert "sfvm update" in done.stderr


def test_another_content_under_a_locked_url(world: World) -> None:
    world.elsewhere("fourth", downloads=False)
    done = world.sfvm("build", "tiny", "--locked", home="fourth", status=1)
    assert "/dists/one/InRelease: its sha256 is" in done.stderr


def test_indexes_of_a_lock_may_be_out_of_date(world: World) -> None:
    """What apt refuses today, because it was to be used for a second only, is what the lock wants."""
    path = world.project.specs / "tiny.lock.xml"
    locked = text = path.read_text()
    try:
        world.publish("1", ValidTime="1")
        refused = world.sfvm("build", "tiny", home="fifth", status=1)
        assert "is expired" in refused.stderr
        for content in world.lock("tiny").by_node["tiny"].contents:
            file = world.root / content.url.removeprefix(f"{world.url}/")
            text = text.replace(content.sha256, hashlib.sha256(file.read_bytes()).hexdigest())
        assert text != locked
        path.write_text(text)
        world.sfvm("build", "tiny", "--locked", home="fifth")
        assert world.manifest("tiny", "fifth").packages == world.manifest("tiny").packages
    finally:
        path.write_text(locked)
        world.publish("2")


def test_what_is_newer(world: World) -> None:
    """Asked in the child alone: it tells of its parent, too."""
    host = world.url.removeprefix("http://")
    done = world.project.sfvm("tree", "child", "--outdated", "--json", "--allow-host", host)
    found = {entry["name"]: entry["waiting"] for entry in json.loads(done.stdout)}
    some, other = ({"name": name, "before": "1", "after": "2", "security": False} for name in ("some", "other"))
    assert found == {"tiny": [some], "child": [other, some]}


def test_an_update_is_shown_before_it_is_written(world: World) -> None:
    before = world.project.repository.names()
    locked = (world.project.specs / "child.lock.xml").read_bytes()
    done = world.sfvm("update", "child")
    lines = ["tiny", "    some 1 → 2", "    metadata of repositories, or other files", "child", "    other 1 → 2"]
    assert done.stdout.splitlines() == lines
    assert world.project.repository.names() == before
    assert (world.project.specs / "child.lock.xml").read_bytes() == locked
    assert "nothing to do" in world.sfvm("build", "child", "--locked").stderr
    done = world.sfvm("update", "child", "--write")
    assert done.stdout.splitlines() == lines
    assert done.all("NodeSealed") == [], "the trial is taken"
    assert [name for name, version, _ in world.manifest("child").packages if version == "2"] == ["other", "some"]
    assert "nothing to do" in world.sfvm("build", "child", "--locked").stderr
    assert "nothing to do" in world.sfvm("build", "child").stderr
    assert world.sfvm("update", "child").stdout == ""
