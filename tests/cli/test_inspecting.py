"""``tree``, ``plan``, ``why``, ``show``, ``sbom``, ``log`` and ``spec`` on tiny specs, without any VM."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from lxml import etree

from sfvm.repository import Repository


@pytest.fixture
def repository(world):
    return Repository(world.home / "repository")


def states(world):
    return {entry["name"]: entry["state"] for entry in json.loads(world.run("tree", "--json").stdout)}


def test_a_fresh_tree_is_missing(world):
    assert {name: states(world)[name] for name in ("root", "web", "leaf")} == dict.fromkeys(
        ("root", "web", "leaf"), "missing"
    )


def test_tree_draws_branches(world):
    lines = world.run("tree", "leaf").stdout.splitlines()
    assert [line.split()[0:2] for line in lines] == [["root", "missing"], ["└─", "web"], ["└─", "leaf"]]
    assert "A root" in lines[0]


def test_built_stale_and_without_spec(world, repository):
    world.put("leaf")
    assert [states(world)[name] for name in ("root", "web", "leaf")] == ["built"] * 3
    world.write("web", (world.specs / "web.xml").read_text().replace("Welcome", "Hello"))
    assert [states(world)[name] for name in ("root", "web", "leaf")] == ["built", "stale", "stale"]
    (world.specs / "leaf.xml").unlink()
    assert states(world)["leaf"] == "unspecified"


def test_an_invalid_spec_does_not_hide_the_others(world):
    world.write(
        "broken", '<filesystem xmlns="urn:sfvm:1" name="broken" parent="root"><steps><fiel/></steps></filesystem>'
    )
    world.write("strange", '<?xml version="1.0" encoding="rot13"?>\n<filesystem xmlns="urn:sfvm:1" name="strange"/>')
    found = states(world)
    assert found["broken"] == found["strange"] == "invalid"
    assert found["web"] == "missing"
    assert "broken" in world.run("tree").stdout


@pytest.mark.parametrize("content", ["[" * 200_000, '{"size": 1e999}', '{"size": 5}', "[]"])
def test_damaged_manifests_and_names_are_no_bugs(world, repository, content):
    world.put("leaf")
    key = repository.current("leaf")
    manifest = repository.nodes / f"{key}.json"
    for path in (manifest, repository.root / "names/leaf"):
        path.chmod(0o644)
        path.write_text(content)
        for words in (["tree"], ["plan", "leaf"], ["why", "leaf"], ["show", key[:8]], ["gc", "-n"]):
            result = world.run(*words)
            assert "bug" not in result.stderr, (words, result.stderr)
    assert states(world)["leaf"] == "missing"


def test_a_damaged_manifest_hides_no_other_node(world, repository):
    world.put("leaf")
    path = repository.nodes / f"{repository.current('web')}.json"
    damaged = path.read_text().replace('"name": "web"', '"name": "../web"', 1)
    path.chmod(0o644)
    path.write_text(damaged)
    told = world.run("tree", "leaf")
    assert told.returncode == 0, told.stderr
    web, leaf = told.stdout.splitlines()[-2:]
    assert ("built" in web, "damaged, see `sfvm verify`" in web) == (True, True)
    assert ("leaf" in leaf, "built" in leaf, "damaged" in leaf) == (True, True, False)


def test_plan_says_what_and_why(world, repository):
    world.put("root")
    plan = json.loads(world.run("plan", "leaf", "--json").stdout)
    assert [(e["name"], e["action"]) for e in plan["entries"]] == [("root", "hit"), ("web", "build"), ("leaf", "build")]
    assert plan["boots"] == 1
    assert plan["chains"] == [["web", "leaf"]]
    text = world.run("plan", "leaf").stdout
    assert "never built" in text
    assert "2 nodes to build, 1 appliance boot" in text


def test_plan_of_what_is_built(world, repository):
    world.put("leaf")
    assert "nothing to build, no appliance boot" in world.run("plan", "leaf").stdout
    changed = world.run("plan", "leaf", "--param", "site=other")
    assert "2 nodes to build" in changed.stdout


def test_why_names_the_input(world, repository):
    assert "never built" in world.run("why", "web").stdout
    world.put("leaf")
    assert "nothing changed, it is built" in world.run("why", "leaf").stdout
    world.write("web", (world.specs / "web.xml").read_text().replace("/etc/motd", "/etc/issue"))
    result = world.run("why", "leaf")
    assert result.returncode == 0
    assert "'/etc/motd' → '/etc/issue'" in result.stdout
    assert "web.xml:5" in result.stdout
    record = json.loads(world.run("why", "leaf", "--json").stdout)
    assert record["built"] is False
    assert all(difference["inherited"] for difference in record["differences"])


def test_show_and_log(world, repository):
    world.put("web")
    text = world.run("show", "web").stdout
    assert text.startswith("web\n")
    assert "file /etc/motd" in text
    record = json.loads(world.run("show", "web", "--json").stdout)
    assert record["name"] == "web"
    assert record["parent_name"] == "root"
    assert world.run("show", record["key"][:8], "--packages").stdout == "nginx  1.2  amd64\n"
    assert world.run("log", "web").stdout == "built web\n"
    (world.specs / "web.xml").unlink()
    assert world.run("log", "web").stdout == "built web\n"


def test_the_log_of_the_last_build_whatever_its_params(world, fail):
    fail("web", 200, {}, site="other")
    fail("leaf", 0, {})
    assert world.run("log", "web").stdout == "web failed, site=other\n"
    world.put("web")
    assert world.run("log", "web").stdout == "built web\n"
    fail("web", -100, {}, site="new")
    assert world.run("log", "web").stdout == "web failed, site=new\n"


def test_sbom_is_the_same_on_stdout_and_in_a_file(world, repository):
    world.put("web")
    key = repository.current("web")
    printed = world.run("sbom", "web").stdout
    document = json.loads(printed)
    assert document["spdxVersion"] == "SPDX-2.3"
    assert (document["packages"][0]["name"], document["packages"][0]["versionInfo"]) == ("web", key)
    assert "pkg:deb/debian/nginx@1.2?arch=amd64&distro=debian-bookworm" in printed
    (world.home / "there").mkdir()
    (world.home / "link").symlink_to("there/web.json")
    for name in ("there/web.json", "link", "made/web.json"):
        result = world.run("sbom", key[:8], "--output", name)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
        assert (world.home / name).read_text() == printed
    assert (world.home / "link").is_symlink()
    assert [path.name for path in (world.home / "there").iterdir()] == ["web.json"]
    assert world.run("sbom", "web", "-o", "/dev/stdout").stdout == printed


def test_sbom_tells_the_time_of_the_build_or_of_the_environment(world, repository):
    world.put("web")
    created = int(repository.manifest(repository.current("web")).created)

    def told(epoch):
        result = world.run("sbom", "web", "--format", "cyclonedx", environment={"SOURCE_DATE_EPOCH": epoch})
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)["metadata"]["timestamp"]

    build = datetime.fromtimestamp(created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert [told(epoch) for epoch in ("", "yesterday", "\u00b2", "9" * 12, "9" * 5000)] == [build] * 5
    assert told("1700000000") == "2023-11-14T22:13:20Z"


def test_sbom_of_what_is_not_there(world, repository):
    world.put("web")
    for arguments, hint in (
        (["leaf"], "known: root, web"),
        (["wbe"], "did you mean 'web'?"),
        (["web", "--format", "cyclondx"], "did you mean 'cyclonedx'?"),
        (["web", "--format", "x"], "known: cyclonedx, spdx"),
    ):
        result = world.run("sbom", *arguments, "--output", "file")
        assert result.returncode == 2
        assert hint in result.stderr
        assert result.stdout == ""
        assert not (world.home / "file").exists()


def test_sbom_that_cannot_be_written_leaves_what_is_there(world, repository):
    world.put("web")
    (world.home / "file").write_text("before")
    result = world.run("sbom", "web", "--output", "file/below")
    assert result.returncode == 1
    assert "the SBOM cannot be written to file/below" in result.stderr
    assert (world.home / "file").read_text() == "before"


def test_show_and_log_of_what_is_not_there(world, repository):
    world.put("web")
    for command in ("show", "log", "rm"):
        result = world.run(command, "wbe")
        assert result.returncode in (1, 2)
        assert "'web'" in result.stderr, command
    assert world.run("log", "leaf").returncode == 2


def test_spec_show_expands(world):
    text = world.run("spec", "show", "web", "--param", "site=shop").stdout
    assert "Welcome to shop" in text
    assert world.run("spec", "show", "web", "--params").stdout == "site  default 'example'  matches [a-z.]+\n"


def test_spec_help_is_made_from_the_verb(world):
    listing = world.run("spec", "help").stdout
    assert "packages" in listing
    assert "empty" in listing
    text = world.run("spec", "help", "file").stdout
    assert text.startswith("<file>")
    assert "path" in text
    assert "required" in text
    assert "an absolute path" in text


def test_every_verb_has_help(world):
    from sfvm.verbs import registry

    for group in ("steps", "bases", "bundle"):
        for name in registry(group):
            result = world.invoke("spec", "help", name)
            assert result.exit_code == 0, result.exception
            assert len(result.output.splitlines()) >= 2


def test_every_element_has_help(world):
    """Those of verbs, and what is around verbs: with a sentence each."""
    from sfvm.document import NAMESPACE
    from sfvm.spec.schema import KINDS, STRUCTURE, assemble
    from sfvm.verbs import registry

    grammars = [etree.fromstring(assemble(kind)) for kind in KINDS]
    elements = {element.get("name") for grammar in grammars for element in grammar.iter("{*}element")} - {None}
    assert {"param", "if", "layout", "subvolume", "packages"} < elements
    assert STRUCTURE.keys() < elements
    for name in elements - {NAMESPACE}:
        result = world.invoke("spec", "help", name)
        assert result.exit_code == 0, result.exception
        assert f"<{name}>" in result.output
        assert STRUCTURE.get(name, "") in result.output
    verbs = {name for group in ("steps", "bases", "bundle") for name in registry(group)}
    tops = ("filesystem", "fragment", "format", "steps", "base", "if", "choose", "when", "otherwise", "for", "include")
    for name in elements - verbs - STRUCTURE.keys():
        homes = world.invoke("spec", "help", name).output.splitlines()[0].partition("  in ")[2].split(", ")
        assert homes != [""], name
        assert not set(homes) & set(tops), f"{name} is part of no verb: it wants a sentence"


def test_validate(world):
    result = world.run("validate", *(str(path) for path in sorted(world.specs.glob("*.xml"))))
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("a valid filesystem") == 3
    bad = world.write("bad", "<filesystem")
    worse = world.write("worse", '<filesystem xmlns="urn:sfvm:1" name="worse" parent="nowhere"/>')
    result = world.run("validate", str(bad), str(world.specs / "web.xml"), str(worse))
    assert result.returncode == 1
    assert result.stderr.count("error: ") == 2  # every file is looked at
    assert "not well-formed" in result.stderr
    assert "'nowhere'" in result.stderr
    assert result.stdout.count("a valid") == 1
    result = world.run("validate", str(bad), str(world.specs / "web.xml"), "--json")
    wrong, good = json.loads(result.stdout)
    assert (result.returncode, result.stderr) == (1, "")
    assert good == {"path": str(world.specs / "web.xml"), "kind": "filesystem", "error": None}
    assert (wrong["kind"], wrong["error"]["what"], wrong["error"]["place"]) == (
        None,
        "not well-formed XML",
        f"{bad}:1:1",
    )


@pytest.mark.parametrize("kind", ["filesystem", "fragment", "format"])
def test_schema_is_a_schema(world, kind):
    from lxml import etree

    etree.RelaxNG(etree.fromstring(world.run("schema", kind).stdout.encode()))


def test_a_cached_build_starts_nothing(world, repository):
    world.put("leaf")
    result = world.run("build", "leaf", "web", environment={"PATH": "/nowhere"})
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "nothing to do" in result.stderr


def test_storage_commands(world, repository):
    world.put("leaf")
    file = world.home / "leaf.sfvm"
    assert world.run("export", "leaf", str(file)).returncode == 0
    there = ["--repository", str(world.home / "other")]
    imported = world.run("import", str(file), *there)
    assert imported.returncode == 0, imported.stderr
    assert "leaf" in imported.stdout.split()
    assert world.run("verify", *there).returncode == 0
    assert world.run("rm", "leaf", "--verbose").returncode == 0
    dry = world.run("gc", "--dry-run")
    assert dry.returncode == 0
    assert repository.built(json.loads(world.run("why", "leaf", "--json").stdout)["key"])
    told = json.loads(world.run("gc", "--dry-run", "--json").stdout)
    assert (told["removed"], [node["name"] for node in told["nodes"]], told["work"]) == (False, ["leaf"], [])
    assert told["bytes"] > 0
    told = json.loads(world.run("gc", "--json").stdout)
    assert (told["removed"], [node["name"] for node in told["nodes"]]) == (True, ["leaf"])
    assert not repository.built(json.loads(world.run("why", "leaf", "--json").stdout)["key"])
    assert states(world)["web"] == "built"


def test_verify_finds_damage_and_repairs(world, repository):
    world.put("web")
    overlay = repository.overlay(repository.current("web"))
    overlay.chmod(0o644)
    content = bytearray(overlay.read_bytes())
    content[-1] ^= 1
    overlay.write_bytes(content)
    found = world.run("verify", "--json")
    (problem,) = json.loads(found.stdout)
    assert (found.returncode, found.stderr) == (1, "")
    assert (problem["kind"], problem["node"], problem["serious"], problem["path"]) == (
        "overlay",
        "web",
        True,
        str(overlay),
    )
    found = world.run("verify")
    assert found.returncode == 1
    assert "web" in found.stdout
    assert world.run("verify", "--repair").returncode in (0, 1)
    assert states(world)["web"] != "built"
    assert world.run("verify").returncode == 0
