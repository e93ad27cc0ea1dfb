"""The docstrings are the users' reference: their examples must be what the schema and the verbs take."""

import re
import shutil
import textwrap
from pathlib import Path

import pytest

from sfvm import document
from sfvm.spec import schema
from sfvm.verbs import Base, Step, registry

KINDS = [(kind, name) for kind in ("steps", "bases") for name in sorted(registry(kind))]
BODY = '<filesystem xmlns="urn:sfvm:1" name="a" {}>{}</filesystem>'
STEPS = " <steps><run>true</run></steps>"


def examples(kind: str, name: str) -> str:
    text = textwrap.dedent("    " + (registry(kind)[name].__doc__ or ""))
    found = re.search(r"Example::\n\n((?:    .*\n|\n)+)", text + "\n")
    assert found, f"{name} has no example"
    example = textwrap.dedent(found[1])
    example = example.replace('sha256="…"', f'sha256="{"0" * 64}"').replace("AAAA…", "AAAA").replace("${site}", "it")
    example = example.replace("@sha256:…", f"@sha256:{'0' * 64}")
    example = example.replace("${mirror}", "https://mirror.example.org")
    assert "…" not in example
    return example


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_examples_are_valid(tmp_path: Path, kind: str, name: str) -> None:
    example = examples(kind, name)
    if kind == "bases":
        text = BODY.format("", f'<disk size="1G" format="ext4"/>{example}{STEPS}')
    else:
        text = BODY.format('parent="b"', f"<steps>{example}</steps>")
    path = tmp_path / "a.xml"
    path.write_text(text, encoding="utf-8")
    root = document.parse(path)
    schema.validate(root, "filesystem")
    (tmp_path / "site").mkdir()
    for file in ("app.tar.xz", "rootfs.tar.xz", "cloud.qcow2"):
        (tmp_path / file).write_bytes(b"")
    shutil.copytree(Path(__file__).parents[2] / "specs" / "keys", tmp_path / "keys")
    for element in root.iter():
        for key in element.words("rsa-keys"):
            (tmp_path / key).write_text("-----BEGIN PUBLIC KEY-----\n")
    found = [element for element in root.iter() if element.tag == name]
    assert found
    for element in found:
        verb = registry(kind)[name].parse(element)
        assert verb.title().split()[0] == name
        assert isinstance(verb, Step if kind == "steps" else Base)


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_every_attribute_is_documented(kind: str, name: str) -> None:
    """In the text or in the example, or it says all by its name and that of its verb."""
    verb = registry(kind)[name]
    plain = {"owner", "mode", "cwd", "user", "network", "name", "gid", "uid", "system", "shell", "home", "comment"}
    plain |= {"path", "release", "distribution", "model", "disable", "components", "include"}
    attributes = set(re.findall(r'<attribute name="([^"]+)"', verb.schema)) - plain
    assert not [attribute for attribute in attributes if attribute not in (verb.__doc__ or "")]
