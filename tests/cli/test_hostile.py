"""What guests, archives and other people wrote commands no terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from sfvm import events
from sfvm.cli.output import plain, say
from sfvm.cli.progress import Plain
from sfvm.errors import EXCERPT, Place, SfvmError
from sfvm.repository import Repository

HOSTILE = "a\x1b]0;title\x07\x9b31m\x00\x7f\r\x85b"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def check(text: str) -> None:
    assert "a\\x1b" in text or "\\x9b31m" in text
    assert CONTROLS.findall(text) == []


def test_what_is_plain():
    assert plain("é\t\udcff\x1b\x9b\u2028", keep="\t") == "é\t\\xff\\x1b\\x9b\\u2028"


def test_errors(tmp_path, capsys):
    spec = tmp_path / "spec.xml"
    spec.write_text(f"\x85\u2028\n{HOSTILE}")
    place = Place(spec, 2, 3)
    say(SfvmError(HOSTILE, place=place, node="web", why=HOSTILE, hint=HOSTILE, detail=(HOSTILE, "\ttext")))
    text = capsys.readouterr().err
    check(text)
    assert "  | \ttext\n" in text
    assert "    a\\x1b]0;" in text


@pytest.mark.parametrize(("column", "caret"), [(1, 0), (2500, EXCERPT // 2 - 1), (5000, EXCERPT // 2 - 1)])
def test_of_a_long_line_what_is_near_the_caret_is_shown(tmp_path, column, caret):
    spec = tmp_path / "spec.xml"
    spec.write_text("x" * (column - 1) + "!" + "y" * (5000 - column))
    line, below = Place(spec, 1, column).excerpt()
    assert (below.index("^") - 4, line[below.index("^")]) == (caret, "!")
    assert len(line) <= 4 + EXCERPT
    assert line.startswith("    …") == (column > 1)
    assert line.endswith("…") == (column < 5000)


def test_manifests(world):
    world.put("web")
    repository = Repository(world.home / "repository")
    path = repository.nodes / f"{repository.current('web')}.json"
    told = json.loads(path.read_bytes())
    steps = [{**step, "title": HOSTILE} for step in told["steps"]]
    facts = {name: {HOSTILE: HOSTILE} for name in ("facts", "provenance")}
    gone = {"element": "run", "version": 1, "inputs": {}, "title": HOSTILE}
    inputs = {**told["inputs"], "steps": [*told["inputs"]["steps"], gone]}
    changed = {"steps": steps, **facts, "packages": [[HOSTILE] * 3], "parent_name": HOSTILE, "filesystem": HOSTILE}
    path.chmod(0o644)
    path.write_text(json.dumps({**told, **changed, "inputs": inputs}))
    for words in (["show", "web"], ["show", "web", "--packages"], ["why", "web"]):
        check(world.run(*words).stdout)
    world.write("web", (world.specs / "web.xml").read_text().replace("Welcome", "Hello"))
    check(world.run("plan", "web").stdout)


def test_specs(world):
    text = (world.specs / "leaf.xml").read_text()
    world.write("leaf", text.replace("<steps>", "<summary>\x9b31m</summary><steps>"))
    for words in (["tree"], ["spec", "list"]):
        check(world.run(*words).stdout)
    world.write("leaf", text.replace("<steps>", "<steps>\x9b31m<"))
    check(world.run("validate", str(world.specs / "leaf.xml")).stderr)


def test_bundles(world):
    for name in ("one", "other"):
        (world.home / name).mkdir()
        told = {"node": HOSTILE, "key": "a" * 64, "format": HOSTILE, "packages": [[name + HOSTILE] * 3],
                "artifacts": {f"{HOSTILE}.raw": {"size": 1, "sha256": name}}}  # fmt: skip
        (world.home / name / "manifest.json").write_text(json.dumps(told))
    check(world.run("diff", "one", "other").stdout)
    (world.home / "one/manifest.json").write_text(json.dumps({**told, "key": HOSTILE}))
    result = world.run("diff", "one", "other")
    assert (result.returncode, "one is no bundle" in result.stderr) == (1, True)
    assert CONTROLS.findall(result.stderr) == []


@pytest.mark.parametrize(
    "event",
    [
        events.Output("web", HOSTILE),
        events.Notice(HOSTILE),
        events.StepStarted("web", 1, HOSTILE, ""),
        events.Waiting("web", HOSTILE),
        events.BundleSkipped("web", "qcow2", HOSTILE),
    ],
)
def test_progress(event):
    stream = io.StringIO()
    Plain(stream, verbose=True)(event)
    check(stream.getvalue())


def test_logs(world):
    """A file or a pipe gets what the guest wrote."""
    world.put("web")
    repository = Repository(world.home / "repository")
    repository.log_path(repository.resolve("web")).write_text(f"built\t{HOSTILE}\n")
    assert "\x1b]0;title" in world.run("log", "web").stdout
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sfvm.cli", "log", "web"]
    subprocess.run(command, env=world.environment, cwd=world.home, stdout=theirs, check=True, timeout=60)
    os.close(theirs)
    shown = os.read(ours, 4096).decode()
    os.close(ours)
    assert shown.startswith("built")
    assert "a\\x1b]0;title" in shown
    assert "\x1b" not in shown
    assert "\\t" not in shown
