"""An export gives the same nodes elsewhere; a hostile one gives nothing, and opens nothing."""

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import tarfile

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfvm import qcow2
from sfvm.errors import RepositoryError
from sfvm.repository import Repository
from tests.repository.conftest import inputs_of, key_of


@pytest.fixture
def exported(repository, add, tmp_path):
    root = add(repository, "root")
    leaf = add(repository, "leaf", root, commands=["write -P 2 1M 64k"])
    file = tmp_path / "leaf.sfvm"
    repository.export(leaf, file)
    return file


@pytest.fixture
def elsewhere(tmp_path):
    return Repository(tmp_path / "elsewhere")


def members(file):
    with zstandard.ZstdDecompressor().stream_reader(file.open("rb")) as stream:
        content = io.BytesIO(stream.read())
    with tarfile.open(fileobj=content) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def pack(file, content, *, prepare=lambda info: None):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            prepare(info)
            archive.addfile(info, io.BytesIO(data))
    file.write_bytes(zstandard.compress(raw.getvalue()))


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def consistent(content, overlay=None, manifest=lambda value: None):
    """*content* with the leaf's overlay and manifest replaced, and everything that depends on them made to fit."""
    index = json.loads(content["index.json"])
    entry = index["nodes"][-1]
    names = f"nodes/{entry['key']}.json", f"layers/{entry['key']}.qcow2"
    data = content[names[1]] if overlay is None else overlay
    value = json.loads(content[names[0]])
    value |= {"size": len(data), "digest": sha256(data)}
    manifest(value)
    text = json.dumps(value).encode()
    entry["manifest"] = {"size": len(text), "sha256": sha256(text)}
    entry["overlay"] = {"size": len(data), "sha256": sha256(data)}
    return content | {"index.json": json.dumps(index).encode(), names[0]: text, names[1]: data}


def nothing_came_in(repository):
    assert all(repository.manifest(key).name == "root" for key in repository.built_keys())
    if repository.root.exists():
        assert list((repository.root / "tmp").iterdir()) == []
        assert [problem for problem in repository.verify() if problem.serious] == []
    return True


def test_nodes_and_names_arrive(repository, exported, elsewhere, same):
    assert elsewhere.import_(exported) == ("root", "leaf")
    assert elsewhere.names() == repository.names()
    leaf = elsewhere.resolve("leaf")
    assert elsewhere.manifest(leaf) == repository.manifest(leaf)
    assert same(elsewhere.overlay(leaf), repository.overlay(leaf))
    assert elsewhere.verify() == ()
    assert elsewhere.import_(exported) == ("root", "leaf")  # again: nothing to do


def test_the_file_is_a_tar_with_the_root_first(exported):
    names = list(members(exported))
    assert names[0] == "index.json"
    assert [name.split("/")[0] for name in names[1:]] == ["nodes", "layers", "nodes", "layers"]


def test_nodes_on_a_flattened_twin(repository, add, tmp_path, elsewhere, same):
    keys = [add(repository, "n0")]
    for depth in range(1, 7):
        commands = [f"write -P {depth} {depth}M 64k"]
        keys.append(add(repository, f"n{depth}", keys[-1], commands=commands, threshold=3))
    repository.export(keys[-1], tmp_path / "deep.sfvm")
    elsewhere.import_(tmp_path / "deep.sfvm")
    assert len(elsewhere.files(keys[-1])) == 7
    assert same(elsewhere.overlay(keys[-1]), repository.overlay(keys[-1]))
    assert elsewhere.verify() == ()
    assert list((repository.root / "tmp").iterdir()) == []


def test_existing_nodes_and_names_are_never_replaced(exported, elsewhere, add):
    mine = add(elsewhere, "root", commands=["write -P 99 0 1M"])
    before = elsewhere.manifest(mine)
    with pytest.raises(RepositoryError, match="other bytes"):
        elsewhere.import_(exported)
    assert elsewhere.manifest(mine) == before
    assert elsewhere.built_keys() == {mine}
    elsewhere.remove("root")
    elsewhere.gc()
    name = add(elsewhere, "root", key="a" * 64)
    elsewhere.import_(exported)
    assert elsewhere.current("root") == name  # an ancestor's name is only set when it is free


def test_a_damaged_node_is_not_exported(repository, exported, tmp_path):
    overlay = repository.overlay(repository.resolve("root"))
    overlay.chmod(0o644)
    with overlay.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\xff")
    with pytest.raises(RepositoryError, match="bytes have changed"):
        repository.export(repository.resolve("leaf"), tmp_path / "bad.sfvm")
    assert not (tmp_path / "bad.sfvm").exists()
    assert not list(tmp_path.glob(".bad*"))


def hostile(tmp_path, *arguments):
    path = tmp_path / "hostile.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *arguments, path, "64M"], check=True)
    return path.read_bytes()


def test_no_overlay_may_name_another_file(exported, elsewhere, tmp_path):
    content = members(exported)
    root = json.loads(content["index.json"])["nodes"][0]["key"]
    sibling, data = f"{root}.qcow2", tmp_path / "data.raw"
    overlays = {
        "an absolute backing file": hostile(tmp_path, "-u", "-b", "/etc/shadow", "-F", "raw"),
        "a path": hostile(tmp_path, "-u", "-b", f"../layers/{sibling}", "-F", "qcow2"),
        "json": hostile(tmp_path, "-u", "-b", 'json:{"driver":"raw","file.filename":"/etc/shadow"}', "-F", "raw"),
        "nbd": hostile(tmp_path, "-u", "-b", "nbd://127.0.0.1:1/x", "-F", "raw"),
        "another sibling": hostile(tmp_path, "-u", "-b", f"{'a' * 64}.qcow2", "-F", "qcow2"),
        "a raw sibling": hostile(tmp_path, "-u", "-b", sibling, "-F", "raw"),
        "a data file": hostile(tmp_path, "-u", "-b", sibling, "-F", "qcow2", "-o", f"data_file={data}"),
        "nothing": hostile(tmp_path),
        "no qcow2": b"\0" * 65536,
        "another size": (tmp_path / "hostile.qcow2").read_bytes()[:24] + bytes(8) + overlay_rest(tmp_path),
    }
    for what, overlay in overlays.items():
        pack(tmp_path / "bad.sfvm", consistent(content, overlay))
        with pytest.raises(RepositoryError, match="is not imported"):
            elsewhere.import_(tmp_path / "bad.sfvm")
        assert nothing_came_in(elsewhere), what


def overlay_rest(tmp_path):
    return (tmp_path / "hostile.qcow2").read_bytes()[32:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.update(key="a" * 64), "another key"),
        (lambda value: value.update(depth=2), "depth"),
        (lambda value: value.update(parent_origin="a" * 64), "another build of its parent"),
        (lambda value: value.update(disk=1 << 20), "smaller"),
        (lambda value: value.update(name="../../x"), "no name"),
        (lambda value: value.update(parent="a" * 64), "another parent"),
        (lambda value: value["inputs"].update(version=2, steps=5), "another version"),
        (lambda value: value["inputs"].update(steps=[]), "does not follow"),
        (lambda value: value["inputs"].update(steps=5), "does not follow"),
        (lambda value: value["inputs"].update(parent=None), "does not follow"),
        (lambda value: value["inputs"]["parent"].update(name=5), "does not follow"),
        (lambda value: value["inputs"].update(base="empty"), "does not follow"),
        (lambda value: value["inputs"].update(arguments=5), "does not follow"),
        (lambda value: value["inputs"].update(pinned=5), "does not follow"),
        (lambda value: value.update(size=1), "overlay is another"),
        (lambda value: value.pop("steps"), "no 'steps'"),
    ],
)
def test_manifests_must_fit(exported, elsewhere, tmp_path, change, message):
    pack(tmp_path / "bad.sfvm", consistent(members(exported), manifest=change))
    with pytest.raises(RepositoryError, match=message):
        elsewhere.import_(tmp_path / "bad.sfvm")
    assert nothing_came_in(elsewhere)


@pytest.mark.parametrize("pinned", [{}, {"refreshed": "2026"}, {"lock": "a" * 64}], ids=str)
def test_keys_that_follow_from_inputs_are_taken(repository, add, elsewhere, tmp_path, pinned):
    inputs = inputs_of("root", None, None) | ({"pinned": pinned} if pinned else {})
    key = key_of(inputs)
    add(repository, "root", key=key, change=lambda manifest: dataclasses.replace(manifest, inputs=inputs))
    repository.export(key, tmp_path / "root.sfvm")
    assert elsewhere.import_(tmp_path / "root.sfvm") == ("root",)


def retyped(kind):
    def prepare(info):
        info.type = kind
        info.linkname = "/etc/passwd"

    return prepare


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, b"x", b"L"])
def test_only_regular_members(exported, elsewhere, tmp_path, kind):
    pack(tmp_path / "bad.sfvm", members(exported), prepare=retyped(kind))
    with pytest.raises(RepositoryError, match="is not imported"):
        elsewhere.import_(tmp_path / "bad.sfvm")
    assert nothing_came_in(elsewhere)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "layers/../../evil", "names/root", "work/x/journal"])
def test_only_known_members(exported, elsewhere, tmp_path, name):
    content = members(exported)
    last = list(content)[-1]
    pack(tmp_path / "bad.sfvm", {(name if key == last else key): value for key, value in content.items()})
    with pytest.raises(RepositoryError, match="it contains"):
        elsewhere.import_(tmp_path / "bad.sfvm")
    assert nothing_came_in(elsewhere)
    assert not list(tmp_path.rglob("evil"))


def test_changed_bytes_are_found(exported, elsewhere, tmp_path):
    content = members(exported)
    last = list(content)[-1]
    changed = bytearray(content[last])
    changed[-1] ^= 1
    pack(tmp_path / "bad.sfvm", content | {last: bytes(changed)})
    with pytest.raises(RepositoryError, match="sha256"):
        elsewhere.import_(tmp_path / "bad.sfvm")
    pack(tmp_path / "bad.sfvm", content | {last: content[last] + bytes(1 << 20)})
    with pytest.raises(RepositoryError, match="not as long"):
        elsewhere.import_(tmp_path / "bad.sfvm")
    assert nothing_came_in(elsewhere)


def test_a_newer_version_is_told(exported, elsewhere, tmp_path):
    content = members(exported)
    index = json.loads(content["index.json"]) | {"version": 2}
    pack(tmp_path / "bad.sfvm", content | {"index.json": json.dumps(index).encode()})
    with pytest.raises(RepositoryError, match="this sfvm knows"):
        elsewhere.import_(tmp_path / "bad.sfvm")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 0.999), position=st.floats(0, 0.999), value=st.integers(0, 255), packed=st.booleans())
def test_any_damage_is_one_clear_error(exported, elsewhere, tmp_path, cut, position, value, packed):
    """Truncated or changed anywhere, compressed or not: imported whole or refused, nothing between."""
    raw = exported.read_bytes() if packed else zstandard.ZstdDecompressor().stream_reader(exported.open("rb")).read()
    changed = bytearray(raw)
    changed[int(position * len(raw))] = value
    bad = tmp_path / "bad.sfvm"
    for variant in (raw[: int(cut * len(raw))], bytes(changed)):
        bad.write_bytes(variant if packed else zstandard.compress(variant))
        try:
            elsewhere.import_(bad)
        except RepositoryError as error:
            assert str(error)
    assert [problem for problem in elsewhere.verify() if problem.serious] == []
    assert list((elsewhere.root / "tmp").iterdir()) == [] if elsewhere.root.exists() else True


def test_the_header_on_disk_is_what_the_manifest_says(exported, elsewhere):
    elsewhere.import_(exported)
    for key in elsewhere.built_keys():
        assert qcow2.digest(elsewhere.overlay(key)) == elsewhere.manifest(key).digest
