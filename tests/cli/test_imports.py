"""What must be instant imports little."""

from __future__ import annotations

import json

import pytest

HEAVY = ("rich", "guestfs", "libvirt", "paramiko", "jinja2", "filelock", "tarfile", "http.client", "importlib.metadata")
"""What takes long to import, and only some commands need."""
OURS = ("lxml", "sfvm.spec", "sfvm.repository")


def imported(world, arguments, names):
    """Those of *names* that are imported when the command of *arguments* is done; it must say something."""
    script = f"""
import sys
before = set(sys.modules)  # what a site imports at every start is not ours
import json
from sfvm.cli import main
status = main({arguments!r})
print("\\n" + json.dumps([name for name in {names!r} if name in sys.modules and name not in before]))
sys.exit(status)
"""
    with world.python(script) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    said, _, found = output.rstrip().rpartition("\n")
    assert said.strip() or errors
    return json.loads(found)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"], ["completion", "zsh"]])
def test_help_imports_nothing_heavy(world, arguments):
    assert imported(world, arguments, (*HEAVY, *OURS, "sfvm.appliance", "tempfile", "traceback")) == []


@pytest.mark.parametrize("arguments", [["plan", "leaf"], ["tree"], ["why", "leaf"], ["build", "leaf"]])
def test_what_starts_no_appliance_imports_nothing_heavy(world, arguments):
    world.put("leaf")
    assert imported(world, arguments, (*HEAVY, *OURS, "sfvm.appliance", "sfvm.build.chain")) == list(OURS)


@pytest.mark.parametrize("kind", ["spdx", "cyclonedx"])
def test_a_bill_of_materials_imports_nothing_heavy(world, kind):
    world.put("leaf")
    others = ("lxml", "sfvm.spec", "sfvm.appliance", "sfvm.build", "sfvm.bundle")
    assert imported(world, ["sbom", "leaf", "--format", kind], (*HEAVY, *others)) == []


def test_a_plan_of_much_to_do_imports_nothing_heavy(world):
    world.put("web")
    world.write("web", world.specs.joinpath("web.xml").read_text().replace("Welcome", "Hello"))
    assert imported(world, ["plan", "leaf"], (*HEAVY, "sfvm.appliance")) == []


def test_every_command_has_help_with_an_example(world):
    from sfvm.cli.commands import cli

    pending = [([], cli)]
    seen = 0
    while pending:
        path, command = pending.pop()
        if hasattr(command, "commands"):
            pending += [([*path, name], child) for name, child in command.commands.items()]
            continue
        result = world.invoke(*path, "--help")
        seen += 1
        assert result.exit_code == 0
        assert "Example" in result.output, path
        assert f"sfvm {' '.join(path)}" in result.output.partition("Example")[2], path
    assert seen > 20
