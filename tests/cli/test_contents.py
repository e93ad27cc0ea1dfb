"""``sfvm diff`` and ``inspect``: what can be named, and what is compared of it, without an appliance."""

import json

import pytest

from sfvm.cli.contents import DIFFERENT
from sfvm.guest import Package
from sfvm.lock import files
from sfvm.lock.model import Content, Lock, Section


@pytest.fixture
def bundle(world):
    """Makes a bundle's directory of the node *name*."""

    def make(directory, name="web", size=1, packages=(("nginx", "1.3", "amd64"), ("curl", "8", "amd64"))):
        path = world.home / directory
        path.mkdir()
        blobs = {f"{name}.qcow2": {"size": size, "sha256": str(size)}}
        told = {"node": name, "key": "a" * 64, "format": "qcow2", "packages": packages, "artifacts": blobs}
        (path / "manifest.json").write_text(json.dumps(told))
        return path

    return make


def test_packages_of_nodes_need_no_appliance(world):
    world.put("leaf")
    result = world.run("diff", "root", "leaf", "--packages", environment={"PATH": "/nowhere"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[2:] == ["no difference"]
    told = json.loads(world.run("diff", "root", "leaf", "--packages", "--json").stdout)
    assert (told["differ"], told["files"], told["a"]["name"]) == (False, None, "root")


def test_a_node_does_not_differ_from_itself(world):
    world.put("web")
    key = json.loads(world.run("show", "web", "--json").stdout)["key"]
    result = world.run("diff", "web", key[:8], "--exit-code", environment={"PATH": "/nowhere"})
    assert (result.returncode, result.stderr) == (0, "")
    assert "no difference" in result.stdout


def test_a_node_and_a_bundle_are_compared_by_packages(world, bundle):
    world.put("web")
    bundle("out")
    result = world.run("diff", "web", "out")
    assert result.returncode == 0
    assert "a node and a bundle: only their packages are compared" in result.stderr
    assert result.stdout.splitlines()[2:] == [
        "",
        "packages: 1 added, 1 changed",
        "+  curl   8          amd64",
        "~  nginx  1.2 → 1.3  amd64",
    ]
    assert world.run("diff", "web", "out", "--exit-code").returncode == DIFFERENT


def test_bundles_are_compared_by_artifacts(world, bundle):
    bundle("one")
    bundle("other", "api", 2048)
    result = world.run("diff", "one", "./other", "--quiet")
    assert "~ artifact ${name}.qcow2  1 B → 2.0 KiB" in result.stdout
    assert "the bundle's size: 1 B → 2.0 KiB" in result.stdout
    assert "sfvm diff aaaaaaaaaaaa" in result.stderr
    told = json.loads(world.run("diff", "one", "other", "--json").stdout)
    assert told["artifacts"] == [
        {"name": "${name}.qcow2", "before": {"size": 1, "sha256": "1"}, "after": {"size": 2048, "sha256": "2048"}}
    ]
    assert told["a"] == {"kind": "bundle", "name": "web", "key": "a" * 64, "path": "one"}
    assert told["sizes"] == {"bundle": {"before": 1, "after": 2048}}


def locked(path, version, digest, *contents):
    """A lock file: metadata with this *digest*, nginx in this *version*, and more *contents*."""
    nginx = Content(f"http://mirror.test/nginx_{version}.deb", "a" * 64, 5, Package("nginx", version, "amd64"))
    same = Content("http://mirror.test/same_1.deb", digest * 64, 5, Package("same", "1", "amd64"))
    index = Content("http://mirror.test/InRelease", digest * 64, 9)
    files.write(Lock((Section("web", "b" * 64, {}, (nginx, same, index, *contents)),)), path)


def test_locks_are_compared_by_packages_and_files(world):
    locked(world.home / "one.lock.xml", "1.2", "c")
    extra = Content("http://mirror.test/key.asc", "e" * 64, 3)
    locked(world.home / "other.lock.xml", "1.3", "d", extra)
    told = json.loads(world.run("diff", "one.lock.xml", "other.lock.xml", "--json").stdout)
    assert told["packages"]["changed"] == [
        {"name": "nginx", "architecture": "amd64", "before": ["1.2"], "after": ["1.3"]}
    ]
    assert [(one["name"], one["before"] is None) for one in told["artifacts"]] == [
        ("http://mirror.test/InRelease", False),
        ("http://mirror.test/key.asc", True),
        ("same 1 amd64", False),
    ]
    assert told["sizes"] == {"lock": {"before": 19, "after": 22}}
    assert told["b"] == {"kind": "lock", "name": "web", "key": "b" * 64, "path": "other.lock.xml"}
    world.put("web")
    result = world.run("diff", "web", "other.lock.xml")
    assert "a node and a lock: only their packages are compared" in result.stderr
    assert "~  nginx  1.2 → 1.3  amd64" in result.stdout


def test_a_node_goes_before_a_directory_and_a_slash_makes_a_path(world, bundle):
    world.put("web")
    bundle("web")
    kinds = {word: json.loads(world.run("diff", "web", word, "--json", "--packages").stdout)["b"]["kind"]
             for word in ("web", "./web", str(world.home / "web"))}  # fmt: skip
    assert list(kinds.values()) == ["node", "bundle", "bundle"]


def test_what_is_not_there(world, bundle):
    world.put("web")
    (world.home / "empty").mkdir()
    (world.home / "bad.lock").touch()
    (world.home / "bad.lock.xml").write_text('<a xmlns="urn:sfvm:1"/>')
    for word, status, said in (
        ("wbe", 2, "did you mean 'web'?"),
        ("./web", 2, "there is no bundle './web'"),
        ("empty", 1, "empty is no bundle"),
        ("", 2, "an empty word names nothing"),
        ("bad.lock", 2, "a lock file (*.lock.xml)"),
        ("./bad.lock", 2, "a lock file (*.lock.xml)"),
        ("no.lock.xml", 2, "there is no lock file 'no.lock.xml'"),
        ("bad.lock.xml", 1, "<a> where <lock> should be"),
    ):
        result = world.run("diff", "web", word)
        assert (result.returncode, result.stdout) == (status, "")
        assert said in result.stderr
    result = world.run("inspect", "wbe")
    assert (result.returncode, result.stdout) == (2, "")
    assert "did you mean 'web'?" in result.stderr


def test_nodes_and_directories_are_completed(world):
    world.put("web")
    environment = {"_SFVM_COMPLETE": "bash_complete", "COMP_WORDS": "sfvm\ndiff\nw", "COMP_CWORD": "2"}
    assert world.run(environment=environment).stdout.splitlines() == ["plain,web", "file,w"]
