"""Damage and company: a corrupted overlay, and garbage collection beside running builds."""

import threading

import pytest

pytestmark = pytest.mark.vm


def test_a_corrupted_overlay_is_found_and_built_anew(project):
    project.sfvm("build", "left")
    repository = project.repository
    overlay = repository.overlay(repository.names()["trunk"])
    overlay.chmod(0o644)
    with overlay.open("r+b") as file:
        file.seek(overlay.stat().st_size // 2)
        file.write(b"damaged!")
    overlay.chmod(0o444)
    found = project.sfvm("verify", status=1)
    assert "node trunk" in found.stdout
    assert "sha256 differs" in found.stdout
    project.sfvm("verify", "--repair")
    done = project.sfvm("build", "left")
    assert done.nodes("NodeSealed") == ["trunk", "left"]
    assert project.cat("left", "/etc/both") == "round 0\nleft\n"
    project.sfvm("gc")
    assert project.sfvm("verify").stderr.strip() == "everything is sound"


def test_two_builds_beside_garbage_collection(project):
    """gc all the time, while two processes build two branches and leave garbage of an older round."""
    project.sfvm("build", "trunk")
    stop = threading.Event()
    collected = []

    def collect():
        while not stop.is_set():
            collected.append(project.sfvm("gc"))

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        builds = [project.start("build", name, "--param", "round=7") for name in ("leaf", "right")]
        for done in [build.end() for build in builds]:
            project.check(done)
            assert done.status == 0, done.stderr
    finally:
        stop.set()
        collector.join()
    assert len(collected) > 3
    assert all(done.status == 0 for done in collected)
    assert project.cat("leaf", "/etc/both") == "round 7\nleft\n"
    assert project.cat("right", "/etc/trunk") == "round 7\n"
    project.sfvm("gc")
    assert project.sfvm("verify").stderr.strip() == "everything is sound"
    assert len(list((project.home / "repository" / "nodes").iterdir())) == 5
