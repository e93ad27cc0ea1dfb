"""The global options stand before or after a command's name."""

from __future__ import annotations

import json

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
