"""Secrets are read from where they are, and shown nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfvm.bundle.secrets import read
from sfvm.errors import UsageError


def test_a_secret_is_the_bytes_of_a_file_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"of a file\n\n")
    monkeypatch.setenv("SFVM_TEST_SECRET", "of a variable")
    found = read([f"one=file:{tmp_path / 'file'}", "two=env:SFVM_TEST_SECRET"])
    assert {name: secret.value for name, secret in found.items()} == {"one": b"of a file\n", "two": b"of a variable"}
    assert "SFVM_TEST_SECRET" not in os.environ  # programs that we run would inherit it
    assert "of a" not in repr(found) + str(found["one"])


@pytest.mark.parametrize("word", ["hunter2", "name=hunter2", "=file:hunter2", "name=text:hunter2"])
def test_what_is_no_place_is_not_repeated(word: str) -> None:
    with pytest.raises(UsageError, match="told by where it is") as caught:
        read([word])
    assert "hunter2" not in caught.value.render()


def test_a_secret_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n")
    for word, message in (
        (f"name=file:{tmp_path / 'none'}", "cannot be read"),
        (f"name=file:{tmp_path / 'empty'}", "is empty"),
        ("name=env:SFVM_TEST_NOTHING", "is empty"),
    ):
        with pytest.raises(UsageError, match=message):
            read([word])
