"""Whatever is damaged is found, named, set aside on request, and can be built anew."""

import json
import os
import shutil
import subprocess

import pytest

from sfvm import qcow2


@pytest.fixture
def tree(repository, add):
    """root ◀ middle ◀ leaf, and other beside middle."""
    root = add(repository, "root")
    middle = add(repository, "middle", root, commands=["write -P 2 1M 64k"])
    leaf = add(repository, "leaf", middle, commands=["write -P 3 2M 64k"])
    other = add(repository, "other", root, commands=["write -P 4 3M 64k"])
    return {"root": root, "middle": middle, "leaf": leaf, "other": other}


def flip(path, position=-1):
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        byte = file.read(1)
        file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        file.write(bytes([byte[0] ^ 1]))


def flip_bit(repository, key):
    flip(repository.overlay(key))


def truncate(repository, key):
    os.truncate(repository.overlay(key), 70_000)


def lose(repository, key):
    repository.overlay(key).unlink()


def other_backing(repository, key):
    overlay = repository.overlay(key)
    subprocess.run(["qemu-img", "rebase", "-u", "-b", "/etc/passwd", "-F", "raw", overlay], check=True)


def cut_manifest(repository, key):
    path = repository.nodes / f"{key}.json"
    path.write_bytes(path.read_bytes()[:200])


def lose_manifest(repository, key):
    (repository.nodes / f"{key}.json").unlink()


def no_qcow2(repository, key):
    overlay = repository.overlay(key)
    size = overlay.stat().st_size
    overlay.chmod(0o644)
    overlay.write_bytes(bytes(size))


DAMAGES = [flip_bit, truncate, lose, other_backing, cut_manifest, lose_manifest, no_qcow2]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_repaired_by_building(repository, add, tree, damage):
    damage(repository, tree["middle"])
    problems = [problem for problem in repository.verify() if problem.serious]
    assert {problem.key for problem in problems} == {tree["middle"], tree["leaf"]}
    assert all(str(problem) for problem in problems)
    if damage is not lose_manifest:
        assert repository.overlay(tree["leaf"]).exists()  # looking changes nothing
    repaired = repository.verify(repair=True)
    assert all(problem.repaired for problem in repaired if problem.kind != "name")
    assert repository.built(tree["root"]) and repository.built(tree["other"])
    assert not repository.built(tree["middle"]) and not repository.built(tree["leaf"])
    assert set(repository.names()) == set(tree)  # the names stay
    add(repository, "middle", tree["root"])
    add(repository, "leaf", tree["middle"])
    assert repository.verify() == ()
    assert repository.gc().nodes == ()


def test_the_last_manifest_of_a_node_set_aside_is_remembered(repository, tree):
    flip_bit(repository, tree["leaf"])
    repository.verify(repair=True)
    assert repository.last("leaf")["key"] == tree["leaf"]
    assert [(problem.kind, problem.serious) for problem in repository.verify()] == [("name", False)]
    repository.gc()
    assert repository.last("leaf")["key"] == tree["leaf"]
    assert [path.suffix for path in (repository.root / "quarantine").iterdir()] == [".json"]


def lose_all(repository, key):
    for directory in (repository.nodes, repository.layers):
        for path in directory.glob(f"{key}.*"):
            path.unlink()


def test_a_parent_built_anew_takes_what_does_not_fit_out_of_use(repository, add, tree):
    lose_all(repository, tree["root"])
    add(repository, "root", commands=["write -P 77 1M 64k"])
    assert repository.built_keys() == {tree["root"]}
    assert [problem for problem in repository.verify() if problem.serious] == []


def test_a_parent_built_anew_with_the_same_bytes_fits(repository, add, tree):
    before = repository.manifest(tree["root"]).origin
    lose_all(repository, tree["root"])
    add(repository, "root")
    assert repository.manifest(tree["root"]).origin == before
    assert repository.built_keys() == set(tree.values())
    assert repository.verify() == ()


def test_a_child_of_another_build_of_its_parent_is_found(repository, tree):
    path = repository.nodes / f"{tree['leaf']}.json"
    found = json.loads(path.read_bytes()) | {"parent_origin": "e" * 64}
    path.write_text(json.dumps(found))
    assert [(problem.kind, problem.key) for problem in repository.verify()] == [("parent", tree["leaf"])]


def test_what_is_in_use_is_not_set_aside(repository, tree):
    flip_bit(repository, tree["leaf"])
    with repository.lease([tree["leaf"]]):
        problems = repository.verify(repair=True)
    assert [problem.repaired for problem in problems] == [False]
    assert "in use" in problems[0].message
    assert repository.built(tree["leaf"])


def test_strays_are_reported_and_removed(repository, tree, set_back):
    dead = subprocess.Popen(["true"])
    dead.wait()
    leftover = repository.root / "tmp" / f"draft.{dead.pid}.abc"
    leftover.write_text("")
    set_back(leftover, 3600)
    shutil.copy(repository.overlay(tree["root"]), repository.layers / f"{'f' * 64}.qcow2")
    (repository.layers / "something").write_text("")
    (repository.nodes / "else.txt").write_text("")
    problems = repository.verify()
    assert {(problem.kind, problem.serious) for problem in problems} == {("stray", False)}
    assert len(problems) == 4
    assert all(problem.repaired for problem in repository.verify(repair=True))
    assert repository.verify() == ()


def test_names_that_stand_for_nothing(repository, tree):
    repository.point("ghost", "e" * 64)
    (repository.root / "names" / "empty").write_text("garbage\n")
    problems = {problem.path.name: problem for problem in repository.verify()}
    assert set(problems) == {"ghost", "empty"}
    assert problems["ghost"].serious
    repository.verify(repair=True)
    assert [problem.path.name for problem in repository.verify()] == ["ghost"]  # only a build can give it a node


@pytest.mark.parametrize("damage", ["lost", "changed"])
def test_a_flattened_twin_is_made_again(repository, add, tree, same, tmp_path, damage):
    deep = add(repository, "deep", tree["leaf"], commands=["write -P 5 4M 64k"], threshold=2)
    twin = repository.layers / f"{tree['leaf']}.flat.qcow2"
    assert qcow2.header(repository.overlay(deep)).backing == twin.name
    qcow2.convert(repository.overlay(deep), tmp_path / "before.qcow2")
    twin.unlink() if damage == "lost" else flip(twin, 40)
    assert [(problem.kind, problem.path) for problem in repository.verify()] == [("twin", twin)]
    assert [problem.repaired for problem in repository.verify(repair=True)] == [True]
    assert repository.verify() == ()
    assert same(repository.overlay(deep), tmp_path / "before.qcow2")


@pytest.mark.parametrize("lost", ["repaired", "lost"])
def test_a_flattened_twin_of_other_bytes_is_not_used(repository, add, tree, same, lost):
    leaf = tree["leaf"]
    repository.flatten(leaf)
    if lost == "repaired":
        flip_bit(repository, leaf)
        repository.verify(repair=True)
    else:
        repository.overlay(leaf).unlink()
    add(repository, "leaf", tree["middle"], commands=["write -P 99 3M 64k"])
    assert same(repository.flatten(leaf), repository.overlay(leaf))
    assert repository.verify() == ()


def test_a_flattened_twin_of_the_same_bytes_stays(repository, add, tree):
    add(repository, "deep", tree["leaf"], commands=["write -P 5 4M 64k"], threshold=2)
    twin, before = repository.flatten(tree["leaf"]), repository.manifest(tree["leaf"])
    sealed = repository.root / "sealed.qcow2"
    repository.overlay(tree["leaf"]).rename(sealed)
    repository.publish(tree["leaf"], sealed, before)
    assert twin.exists()
    assert repository.verify() == ()


def test_progress_ends_at_one(repository, tree):
    seen = []
    repository.verify(progress=lambda what, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) == 5
