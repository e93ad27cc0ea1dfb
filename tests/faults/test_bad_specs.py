"""Every kind of bad spec, through the command line, without any VM: exit status 1, one message, its place."""

import struct
import subprocess
import sys
import tarfile

import pytest

from sfvm.cli.entry import main

ROOT = """<filesystem xmlns="urn:sfvm:1" name="bad">
<disk size="64M" format="ext4"/>
<base>{base}</base>
<steps>
{steps}
</steps>
</filesystem>
"""
SECRET = "s3cret-of-another-file"


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """A function that writes a spec and asks for its plan; returns the error's text."""
    for kind in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / kind.lower()))
    monkeypatch.setenv("SFVM_HOME", str(tmp_path / "repository"))
    specs = tmp_path / "specs"
    specs.mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_text(SECRET)

    def run(text="", *, base="<empty/>", steps="", status=1, **files):
        for name, content in files.items():
            (specs / f"{name}.xml").write_text(content)
        (specs / "bad.xml").write_text(text or ROOT.format(base=base, steps=steps))
        assert main(["plan", "bad"]) == status
        told = capsys.readouterr()
        assert told.out == ""
        assert "Traceback" not in told.err
        assert "bug in sfvm" not in told.err
        assert SECRET not in told.err
        assert told.err.startswith("error: ")
        assert not (tmp_path / "repository").exists()
        return told.err

    run.specs = specs
    return run


def fragment(steps):
    return f'<fragment xmlns="urn:sfvm:1">\n<steps>{steps}</steps>\n</fragment>\n'


CASES = {
    "malformed": ({"text": '<filesystem xmlns="urn:sfvm:1" name="bad">\n<disk</filesystem>'}, ["bad.xml:2:"]),
    "empty": ({"text": " "}, ["bad.xml"]),
    "not XML at all": ({"text": "\x00\x01\x02"}, ["bad.xml"]),
    "another namespace": ({"text": '<filesystem xmlns="urn:x" name="bad"/>'}, ["bad.xml:1:"]),
    "unknown verb": ({"steps": '<packges install="x"/>'}, ["bad.xml:5:1", "packges", "did you mean 'packages'?"]),
    "unknown attribute": ({"steps": '<file pth="/x"/>'}, ["bad.xml:5:", "pth", "did you mean 'path'?"]),
    "unknown base": ({"base": "<mmdebstrp/>"}, ["bad.xml:3:", "did you mean 'mmdebstrap'?"]),
    "missing include": ({"steps": '<include spec="no.xml"/>'}, ["bad.xml:5:", "no.xml"]),
    "include cycle": (
        {
            "steps": '<include spec="one.xml"/>',
            "one": fragment('<include spec="two.xml"/>'),
            "two": fragment('<include spec="one.xml"/>'),
        },
        ["cycle", "one.xml", "two.xml"],
    ),
    "parent cycle": (
        {
            "text": '<filesystem xmlns="urn:sfvm:1" name="bad" parent="worse"/>',
            "worse": '<filesystem xmlns="urn:sfvm:1" name="worse" parent="bad"/>',
        },
        ["cycle of parents", "bad", "worse"],
    ),
    "its own parent": ({"text": '<filesystem xmlns="urn:sfvm:1" name="bad" parent="bad"/>'}, ["cycle of parents"]),
    "missing parent": (
        {"text": '<filesystem xmlns="urn:sfvm:1" name="bad" parent="busybx"/>'},
        ["bad.xml:1:", "did you mean 'busybox'?"],
    ),
    "DTD": ({"text": f"<!DOCTYPE filesystem []>{ROOT}"}, ["bad.xml:1:", "DTD"]),
    "external entity": (
        {"text": f'<!DOCTYPE x [<!ENTITY e SYSTEM "secret">]>\n{ROOT.format(base="<empty/>", steps="<run>&e;</run>")}'},
        ["bad.xml:1:"],
    ),
    "copy out of the directory": ({"steps": '<copy from="../secret" to="/x"/>'}, ["bad.xml:5:", "../secret"]),
    "copy of an absolute path": ({"steps": '<copy from="/etc/passwd" to="/x"/>'}, ["bad.xml:5:", "/etc/passwd"]),
    "copy through a symlink": ({"steps": '<copy from="link" to="/x"/>'}, ["bad.xml:5:", "link"]),
    "copy of nothing": ({"steps": '<copy from="nothing" to="/x"/>'}, ["bad.xml:5:", "nothing"]),
    "wrong sha256": ({"base": f'<archive from="a.tar" sha256="{"0" * 64}"/>'}, ["bad.xml:3:", "sha256"]),
    "a path with ..": ({"steps": '<file path="/etc/../../x">x</file>'}, ["bad.xml:5:"]),
    "a relative path": ({"steps": '<file path="etc/x">x</file>'}, ["bad.xml:5:"]),
}


@pytest.mark.parametrize("name", CASES)
def test_a_spec_with(plan, tmp_path, name):
    given, told = CASES[name]
    (plan.specs / "link").symlink_to(tmp_path / "secret")
    with tarfile.open(plan.specs / "a.tar", "w"):
        pass
    error = plan(**given)
    for text in told:
        assert text in error, error


def test_an_entity_bomb_costs_neither_time_nor_memory(tmp_path):
    """In a process that may not take 1 GiB."""
    levels = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "boom">{levels}]><filesystem xmlns="urn:sfvm:1" name="x">&e11;</filesystem>'
    (tmp_path / "bomb.xml").write_text(bomb)
    script = 'ulimit -v 1048576; exec "$0" -m sfvm.cli validate bomb.xml'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert "bomb.xml:1:" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["backing", "data"])
def test_a_base_image_that_names_another_file(plan, tmp_path, kind):
    """QEMU would read it: refused by its header, before anything opens it."""
    image, other = plan.specs / "base.qcow2", tmp_path / "secret"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", image, "64M"], check=True)
    if kind == "backing":
        subprocess.run(["qemu-img", "rebase", "-u", "-f", "qcow2", "-b", other, "-F", "raw", image], check=True)
    else:
        with image.open("r+b") as file:  # the incompatible feature "external data file", bit 2
            file.seek(72)
            file.write(struct.pack(">Q", 4))
    digest = subprocess.run(["sha256sum", image], capture_output=True, text=True, check=True).stdout.split()[0]
    before = other.stat().st_atime_ns
    error = plan(base=f'<image from="base.qcow2" sha256="{digest}"/>')
    assert "is refused" in error
    assert other.stat().st_atime_ns == before
