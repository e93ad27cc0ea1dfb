"""The global options stand before or after a command's name."""

from __future__ import annotations

import json
import os
import sys

import pytest


@pytest.fixture
def elsewhere(world):
    folder = world.home / "elsewhere"
    folder.mkdir()
    (folder / "extra.xml").write_text((world.specs / "root.xml").read_text().replace('"root"', '"extra"'))
    return str(folder)


@pytest.mark.parametrize("before", [True, False])
def test_specs_before_or_after(world, elsewhere, before):
    option = ["--specs", elsewhere]
    result = world.run(*option, "plan", "extra", "--json") if before else world.run("plan", "extra", "--json", *option)
    assert result.returncode == 0, result.stderr
    assert [entry["name"] for entry in json.loads(result.stdout)["entries"]] == ["extra"]


def test_specs_on_a_command_of_a_group(world, elsewhere):
    for arguments in (["spec", "--specs", elsewhere, "list"], ["spec", "list", "--specs", elsewhere]):
        assert "extra" in world.run(*arguments).stdout


def test_directories_add_up_and_the_nearer_one_wins(world, elsewhere):
    other = world.home / "other"
    other.mkdir()
    text = (world.specs / "root.xml").read_text().replace('"root"', '"extra"')
    (other / "extra.xml").write_text(text.replace("A root", "Another"))
    both = world.run("--specs", elsewhere, "spec", "list", "--json", "--specs", str(other))
    summaries = {spec["name"]: spec["summary"] for spec in json.loads(both.stdout)}
    assert summaries["extra"] == "Another"
    assert summaries["root"] == "A root"
    reversed_ = world.run("--specs", str(other), "spec", "list", "--json", "--specs", elsewhere)
    assert "A root" in {spec["name"]: spec["summary"] for spec in json.loads(reversed_.stdout)}["extra"]


def test_the_repository_is_only_made_when_something_is_written(world):
    target = world.home / "new"
    assert world.run("tree", "--repository", str(target)).returncode == 0
    assert not target.exists()


def test_completion_names_commands_options_and_nodes(world):
    def complete(*words):
        environment = {
            "_SFVM_COMPLETE": "bash_complete",
            "COMP_WORDS": "\n".join(["sfvm", *words]),
            "COMP_CWORD": str(len(words)),
        }
        result = world.run(environment=environment)
        assert result.stderr == ""
        return result.stdout.split()

    assert complete("bu") == ["plain,build", "plain,bundle"]
    assert complete("build", "w") == ["plain,web"]
    assert "plain,--jobs" in complete("build", "--j")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(world, shell):
    result = world.run("completion", shell)
    assert result.returncode == 0
    assert f"_SFVM_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "variable", "warm"),
    [([], None, True), (["--no-warm"], None, False), ([], "no", False), (["--no-warm"], "yes", False)],
)
def test_warm_start_can_be_turned_off(world, monkeypatch, arguments, variable, warm):
    from sfvm.cli import options

    seen = []
    monkeypatch.setattr(options.Options, "open", lambda self: seen.append(self.settings()) or sys.exit(0))
    if variable:
        monkeypatch.setenv("SFVM_WARM", variable)
    world.invoke("tree", *arguments)
    assert [settings.warm for settings in seen] == [warm]


def test_what_is_neither_yes_nor_no(world):
    result = world.run("tree", environment={"SFVM_WARM": "perhaps"})
    assert result.returncode == 2
    assert "warm must be yes or no, not 'perhaps'" in result.stderr


def test_gc_removes_saved_appliances_that_nobody_uses(world):
    store = world.home / "cache" / "sfvm" / "warm"
    store.mkdir(parents=True)
    for name in ("new.state", "old.state", "old.json", "x.refused"):
        (store / name).write_bytes(bytes(8192))
    os.utime(store / "old.state", (1, 1))
    assert "saved appliances" in world.run("gc", "--dry-run").stderr
    assert (store / "old.state").exists()
    assert world.run("gc").returncode == 0
    assert sorted(path.name for path in store.iterdir()) == ["lock", "new.state"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("repository = 5", "repository must be a text, not 5"),
        ('repository = ["a"]', "repository must be a text, not ['a']"),
        ('repository = "a\\u0000b"', "repository must be a text"),
        ("connection = 5", "connection must be a text, not 5"),
        ("jobs = inf", "jobs must be a whole number above 0, not inf"),
        ('repository = "~nosuchuser/x"', "the repository cannot be '~nosuchuser/x'"),
    ],
)
def test_settings_of_the_wrong_kind(world, line, message):
    path = world.home / "config" / "sfvm" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(line)
    result = world.run("tree", environment={"SFVM_HOME": ""})
    assert result.returncode == 2
    assert message in result.stderr


def test_a_repository_of_a_user_that_there_is_not(world):
    result = world.run("tree", environment={"SFVM_HOME": "~nosuchuser/x"})
    assert result.returncode == 2
    assert "the repository cannot be '~nosuchuser/x'" in result.stderr
