"""Digests of files and trees."""

import hashlib
import os
from pathlib import Path

import pytest

from sfvm.digest import file_digest, tree_digest
from sfvm.errors import SpecError


def test_a_file_has_the_sha256_of_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"hello")
    assert file_digest(path) == hashlib.sha256(b"hello").hexdigest()


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"one")
    before = file_digest(path)
    other = tmp_path / "b"
    other.write_bytes(b"two")
    other.replace(path)
    assert file_digest(path) != before


def test_a_tree_tells_names_modes_targets_and_contents(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o755)
    (tmp_path / "d/x").write_bytes(b"x")
    (tmp_path / "d/x").chmod(0o640)
    (tmp_path / "out").symlink_to("/etc/passwd")
    assert tree_digest(tmp_path) == {
        "d": {"mode": "0755"},
        "d/x": {"mode": "0640", "sha256": hashlib.sha256(b"x").hexdigest()},
        "out": {"target": "/etc/passwd"},
    }
    assert list(tree_digest(tmp_path)) == sorted(tree_digest(tmp_path))


def test_what_cannot_be_copied_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SpecError, match="no file, directory or symlink"):
        tree_digest(tmp_path)
    with pytest.raises(SpecError, match="not a regular file"):
        file_digest(tmp_path / "pipe")
    with pytest.raises(SpecError, match="cannot be read"):
        file_digest(tmp_path / "none")
