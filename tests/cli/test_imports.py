"""What must be instant imports little."""

from __future__ import annotations

import pytest

HEAVY = ("rich", "lxml", "guestfs", "libvirt", "paramiko", "jinja2", "sfvm.appliance", "sfvm.spec", "sfvm.repository")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["build", "--help"], ["completion", "zsh"]])
def test_help_imports_nothing_heavy(world, arguments):
    script = f"""
import sys
from sfvm.cli import main
status = main({arguments!r})
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""
    with world.python(script) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert output
    assert errors == "[]\n"


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
