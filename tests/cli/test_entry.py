"""Exit statuses and messages, as users and scripts meet them."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import click
import pytest

from sfvm.cli.commands import cli
from sfvm.cli.entry import report
from sfvm.errors import SfvmError
from sfvm.guest import CommandFailed

SLEEPER = """
import signal, sys, time
from sfvm.cli import commands, main

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup

@commands.cli.command()
def sleeper():
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        print("cleaning", flush=True)
        sys.stdin.readline()
        print("cleaned", flush=True)

sys.exit(main(["sleeper"]))
"""


def test_version_goes_to_stdout(world):
    result = world.run("--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("sfvm ")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["buidl", "web"], "did you mean 'build'?"),
        (["spec", "lsit"], "did you mean 'list'?"),
        (["build", "web", "--jbos", "3"], "did you mean '--jobs'?"),
        (["tree", "--connection", "dierct"], "did you mean 'direct'?"),
        (["run", "web", "ls", "-l"], "behind --"),
        (["build", "wbe"], "did you mean 'web'?"),
        (["plan", "rot"], "did you mean 'root'?"),
        (["plan", "web", "--param", "sit=x"], "did you mean 'site'?"),
        (["spec", "help", "fiel"], "did you mean 'file'?"),
        (["plan", "web", "--param", "site=UPPER"], "it must match"),
        (["plan", "leaf", "--param", "web:site=UPPER"], "it must match"),
        (["build", "web", "--bundle", "nosuch"], "sfvm formats"),
    ],
)
def test_misspelt_words_are_usage_errors_with_a_suggestion(world, arguments, hint):
    result = world.run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert hint in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["build"],
        ["bundle", "web"],
        ["build", "web", "--jobs", "many"],
        ["build", "web", "--on-error", "cry"],
        ["build", "web", "--param", "site"],
        ["build", "web", "--set", "memory=3"],
        ["completion", "powershell"],
        ["validate", "nothing-there.xml"],
        ["tree", "--specs", "nowhere"],
    ],
)
def test_wrong_use_exits_2_without_a_traceback(world, arguments):
    result = world.run(*arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("group", [[], ["spec"], ["format"], ["publish"]])
def test_a_group_alone_is_helped(world, group):
    """With an example, and with the exit status that click has for it: 2 since 8.2, 0 before."""
    result = world.run(*group)
    told = result.stderr or result.stdout
    assert result.returncode == (2 if result.stderr else 0)
    assert told.startswith(" ".join(["Usage: sfvm", *group]))
    assert "Examples:\n  sfvm" in re.sub(" +", " ", told).replace("\n ", "\n  ")


def test_a_working_directory_that_is_gone_is_no_bug(world):
    script = """
import os, sys
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
from sfvm.cli import main
sys.exit(main(["tree"]))
"""
    with world.python(script) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith("error: the working directory is not there any more\n")


def test_a_default_that_does_not_fit_is_an_error_of_the_spec(world):
    world.write("web", (world.specs / "web.xml").read_text().replace('default="example"', 'default="UPPER"'))
    assert world.run("plan", "web").returncode == 1


def test_a_bad_spec_exits_1_and_names_the_place(world):
    text = '<filesystem xmlns="urn:sfvm:1" name="bad" parent="root"><steps><fiel/></steps></filesystem>'
    world.write("bad", text)
    result = world.run("plan", "bad")
    assert result.returncode == 1
    assert f"bad.xml:1:{text.index('<fiel') + 1}" in result.stderr
    assert "did you mean 'file'?" in result.stderr


def test_an_unforeseen_error_is_a_bug_with_a_crash_file(world, capsys):
    try:
        raise ZeroDivisionError("a test")
    except ZeroDivisionError as error:
        status = report(error)
    message = capsys.readouterr().err
    assert status == 1
    assert "this is a bug in sfvm" in message
    assert "Traceback" not in message
    (crash,) = (world.home / "state").rglob("crash-*.txt")
    assert str(crash) in message
    assert "ZeroDivisionError: a test" in crash.read_text()


def test_the_systems_refusals_are_no_bugs(world, capsys):
    status = report(PermissionError(13, "Permission denied", "/some/where"))
    assert status == 1
    message = capsys.readouterr().err
    assert "/some/where cannot be used" in message
    assert "Permission denied" in message
    assert "bug" not in message


def test_a_failing_command_of_the_appliance_shows_its_last_lines(capsys):
    assert report(CommandFailed(32, ["mount: no medium"])) == 1
    message = capsys.readouterr().err
    assert "exit status 32" in message
    assert "| mount: no medium" in message
    assert "bug" not in message


def test_the_error_says_its_exit_status(capsys):
    class Odd(SfvmError):
        exit_status = 7

    assert report(Odd("odd")) == 7
    assert capsys.readouterr().err == "error: odd\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_end_through_cleanup_even_when_repeated(world, number, status):
    with world.python(SLEEPER) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            assert process.stdout.readline() == "cleaning\n"
            process.send_signal(number)
            output, errors = process.communicate("go on\n", timeout=120)
        finally:
            process.kill()
    assert process.returncode == status
    assert "cleaned" in output
    assert "interrupted" in errors
    assert "Traceback" not in errors


def test_a_signal_while_the_program_is_loaded(world):
    script = """
import os, signal, sys
from sfvm.cli import main

class Late:
    def find_spec(self, name, path, target=None):
        if name == "sfvm.cli.commands":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Late())
sys.exit(main(["--version"]))
"""
    with world.python(script) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.startswith("interrupted\n")
    assert "Traceback" not in errors


def test_a_signal_that_another_thread_took_ends_all_the_same(world):
    """Linux gives a signal for the process to any thread that happens to fork; the main one waits for a lock."""
    script = """
import queue, signal, sys, threading
from sfvm.cli import commands, main

def other():
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    never.wait()

never = threading.Event()

@commands.cli.command()
def waiter():
    try:
        threading.Timer(0.2, other).start()
        queue.SimpleQueue().get()
    finally:
        never.set()

sys.exit(main(["waiter"]))
"""
    with world.python(script) as process:
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in errors


def test_a_reader_that_goes_away_is_no_error_message(world):
    script = """
import sys
from sfvm.cli import commands, main

@commands.cli.command()
def talker():
    for number in range(100_000):
        print(number)

sys.exit(main(["talker"]))
"""
    with world.python(script) as process:
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(20) == 128 + signal.SIGPIPE
    assert errors == ""


@pytest.mark.parametrize("words", [("tree",), ("plan", "web"), ("spec", "show", "web")])
def test_a_terminal_that_lacks_a_character_gets_its_escape(world, words):
    world.write("web", (world.specs / "web.xml").read_text().replace("Welcome", "✓"))
    there = world.run(*words, environment={"PYTHONIOENCODING": "utf-8"}).stdout
    result = world.run(*words, environment={"PYTHONIOENCODING": "iso-8859-1"})
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == there.encode("iso-8859-1", "backslashreplace").decode() != there


def test_a_path_that_is_not_utf_8_can_be_shown(world):
    directory = world.home / os.fsdecode(b"a\xff")
    directory.mkdir()
    (directory / "mine.xml").write_text('<format xmlns="urn:sfvm:1" name="mine"/>')
    strict = {"PYTHONIOENCODING": "utf-8", "SFVM_FORMATS": str(directory)}
    result = world.run("format", "show", "mine", environment=strict)
    assert (result.returncode, result.stderr) == (0, "")
    assert "a\\udcff/mine.xml" in result.stdout


def test_a_format_in_another_encoding_is_shown_as_it_is(world):
    content = (
        '<?xml version="1.0" encoding="iso-8859-1"?>\n<format xmlns="urn:sfvm:1" name="mine"><!-- \xe9 --></format>\n'
    )
    (world.home / "formats").mkdir()
    (world.home / "formats" / "mine.xml").write_bytes(content.encode("iso-8859-1"))
    result = world.invoke("format", "show", "mine")
    assert result.exception is None
    assert result.stdout_bytes.endswith(content.encode("iso-8859-1"))


def commands(group, *words):
    for name, command in group.commands.items():
        yield (*words, name), command
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)


def test_examples_have_the_options_that_are_required():
    """Those in the help of every command, and of groups for their commands."""
    known, seen = dict(commands(cli)), 0
    for command in known.values():
        for line in (command.help or "").splitlines():
            words = line.split() if line.startswith("      sfvm ") else []
            shown = max((name for name in known if tuple(words[1 : 1 + len(name)]) == name), key=len, default=None)
            for parameter in known[shown].params if shown else ():
                if isinstance(parameter, click.Option) and parameter.required:
                    seen += 1
                    assert set(parameter.opts) & set(words), line
    assert seen > 1


def test_colors_need_a_terminal(world):
    assert "\x1b" not in world.run("buidl").stderr


def test_a_crash_file_is_written_even_without_a_home(world, monkeypatch, capsys):
    (world.home / "state").write_text("in the way")
    assert report(ZeroDivisionError("a test")) == 1
    named = Path(capsys.readouterr().err.rpartition("the file ")[2].strip())
    assert "ZeroDivisionError" in named.read_text()
    named.unlink()


def test_a_crash_file_says_what_is_not_utf_8(world, capsys):
    assert report(ValueError(f"a test of {os.fsdecode(bytes([0xFF]))}")) == 1
    named = Path(capsys.readouterr().err.rpartition("the file ")[2].strip())
    assert "a test of \\udcff" in named.read_text()
