"""Debian, built again from its lock, without the network: the same packages every time."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from sfvm.repository import Manifest, Repository
from tests.e2e.conftest import BUILD_SECONDS
from tests.guests.project import Project, Running

pytestmark = pytest.mark.e2e


def manifest(repository: Path) -> Manifest:
    found = Repository(repository)
    return found.manifest(found.names()["debian"])


def test_locked_and_offline_debian_is_built_twice_with_the_same_packages(debian: Project) -> None:
    """Two at once, each in a repository that has the downloads and nothing else."""
    debian.sfvm("lock", "debian", "--output", ".")
    original = debian.home / "repository"
    builds: list[tuple[Path, Running]] = []
    try:
        for name in ("first", "second"):
            repository = debian.home / name
            shutil.copytree(original / "downloads", repository / "downloads", copy_function=os.link)
            words = ("--locked", "--locks", ".", "--offline", "--repository", str(repository))
            builds.append((repository, debian.start("build", "debian", *words)))
        for _, running in builds:
            done = running.end(BUILD_SECONDS)
            debian.check(done)
            assert done.status == 0, done.stderr
    finally:
        for _, running in builds:
            if running.process.poll() is None:
                running.interrupt()
                running.end()
    packages = manifest(original).packages
    assert len(packages) > 100
    for repository, _ in builds:
        found = manifest(repository)
        assert found.packages == packages
        assert {(one.url, one.sha256) for one in found.fetched} <= {
            (one.url, one.sha256) for one in manifest(original).fetched
        }
        assert all(one.cached for one in found.fetched)
        assert [entry["state"] for entry in json.loads(_tree(debian, repository))] == ["built"]
        shutil.rmtree(repository)


def _tree(project: Project, repository: Path) -> str:
    return project.sfvm("tree", "debian", "--json", "--repository", str(repository)).stdout
