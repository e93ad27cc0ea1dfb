"""Of all formats those are left out that cannot be made, with the reason; one that was named is an error."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest

from sfvm.bundle.bundler import Bundler, _Group
from sfvm.bundle.compression import compressed
from sfvm.bundle.format import Recipe, every, expand, request
from sfvm.bundle.programs import program
from sfvm.bundle.stage import Unfit
from sfvm.cancellation import NEVER, Cancellation
from sfvm.config import Settings
from sfvm.errors import BundleError, Place, SpecError, UsageError
from sfvm.events import BundleSkipped, Event
from sfvm.repository import Repository

FACTS = {"architecture": "x86_64", "distribution": "debian", "release": "bookworm"}
HERE = Place(Path("format.xml"), 1)


@pytest.fixture
def told() -> list[Event]:
    return []


@pytest.fixture
def bundler(tmp_path: Path, settings: Settings, told: list[Event]) -> Bundler:
    return Bundler(tmp_path, Repository(settings.repository), settings, told.append, lambda directory: None)


def left_out(told: list[Event]) -> dict[str, str]:
    return {event.format: event.reason for event in told if isinstance(event, BundleSkipped)}


def test_a_value_that_one_format_does_not_take(bundler: Bundler, told: list[Event]) -> None:
    assert bundler.jobs("web", "0" * 64, FACTS, every({"boot": "none"}))
    assert left_out(told)["xen-pv"].startswith("param 'boot' cannot be 'none': it must be one of ")
    assert not {"raw", "qcow2", "tar"} & set(left_out(told))
    with pytest.raises(UsageError, match="'boot' cannot be 'none'"):
        bundler.jobs("web", "0" * 64, FACTS, [request("xen-pv", {"boot": "none"})])


def test_a_value_that_a_verb_does_not_take(bundler: Bundler, told: list[Event]) -> None:
    values = {"compression": "xz", "level": "3"}
    assert bundler.jobs("web", "0" * 64, FACTS, every(values))
    assert "xz has no level '3'" in left_out(told)["squashfs"]
    with pytest.raises(SpecError, match="xz has no level '3'"):
        bundler.jobs("web", "0" * 64, FACTS, [request("squashfs", values)])


def test_a_format_that_is_wrong_by_itself_is_an_error(
    bundler: Bundler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "formats").mkdir()
    text = '<format xmlns="urn:sfvm:1" name="wrong"><squashfs as="a" compression="xz" level="3"/></format>'
    (tmp_path / "formats" / "wrong.xml").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match="xz has no level '3'"):
        bundler.jobs("web", "0" * 64, FACTS, every({}))


def test_a_program_that_is_not_there(bundler: Bundler, told: list[Event]) -> None:
    made = []

    def make(recipe: Recipe, stop: Cancellation) -> None:
        if recipe.format == "squashfs":
            program("nonesuch2sqfs", "nonesuch-tools", HERE)
        made.append(recipe.format)

    recipes = [replace(expand(request(name, {}), "web", FACTS), optional=True) for name in ("squashfs", "tar")]
    group = _Group(bundler, "web", "0" * 64, None, tuple(recipes))
    group._formats(recipes, make, NEVER)
    assert made == ["tar"]
    assert left_out(told) == {"squashfs": "nonesuch2sqfs, which this format needs, is not installed"}
    with pytest.raises(BundleError) as caught:
        group._formats([replace(recipe, optional=False) for recipe in recipes], make, NEVER)
    assert "install it (Debian: nonesuch-tools)" in caught.value.render()


def test_no_xz(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Unfit, match="xz is not installed"), compressed("xz", io.BytesIO()):
        pass
