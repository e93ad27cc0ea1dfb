"""Bundles are made while other nodes are still built, and what a failure leaves of both."""

import os
import shutil
import signal
from dataclasses import replace

import pytest

from sfvm.bundle import Bundler
from sfvm.bundle.format import request
from sfvm.cancellation import NEVER
from sfvm.errors import BundleError

pytestmark = pytest.mark.vm

BUNDLE = ("--bundle", "raw", "--set", "boot=none", "--output", "out")
FOREVER = '<run network="no">sleep 1000</run>'


def moments(done):
    """When what was heard first of (event, node)."""
    found = {}
    for event in done.events:
        if "node" in event:
            found.setdefault((event["event"], event["node"]), event["time"])
    return found


def bundles(project):
    directory = project.home / "out"
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


def test_a_node_is_bundled_while_its_sibling_is_built(project):
    project.write("quick", "busybox", '<file path="/etc/quick">quick</file>')
    project.write("slow", "busybox", FOREVER)
    running = project.start("build", "slow", "quick", "busybox", "--jobs", "2", *BUNDLE)
    running.until("Bundled", node="busybox")  # built before, so there is nothing to wait for
    running.until("Bundled", node="quick")
    assert "slow" in [event["node"] for event in running.events() if event["event"] == "StepStarted"]
    os.kill(running.process.pid, signal.SIGTERM)
    done = running.end(60)
    project.check(done)
    assert done.status == 128 + signal.SIGTERM
    assert done.stdout.split() == ["out/quick-raw", "out/busybox-raw"]  # what is complete stays, and is told
    assert bundles(project) == ["busybox-raw", "quick-raw"]
    assert project.leftovers() == []


def test_an_inner_node_of_a_chain_is_bundled_before_the_chain_ends(project):
    project.edit("left", ("sleep 0.3", "sleep 1000"))
    running = project.start("build", "trunk", "left", "--jobs", "2", *BUNDLE)
    running.until("Bundled", node="trunk")
    running.interrupt()
    done = running.end(60)
    project.check(done)
    assert done.status == 130
    assert "left" not in done.nodes("NodeSealed")
    assert bundles(project) == ["trunk-raw"]


def test_keep_going_bundles_what_was_built(project):
    project.write("good", "busybox", '<file path="/etc/good">good</file>')
    project.write("bad", "busybox", '<run network="no">exit 7</run>')
    done = project.sfvm("build", "bad", "good", "--on-error", "keep-going", *BUNDLE, status=1)
    assert "exit status 7" in done.stderr
    assert done.stdout.split() == ["out/good-raw"]
    assert done.nodes("NodeFailed") == ["bad"]
    assert bundles(project) == ["good-raw"]


def test_a_bundle_that_cannot_be_made_stops_the_build(project):
    """busybox has no kernel, so a disk that boots cannot be made of it."""
    project.write("slow", "busybox", FOREVER)
    done = project.sfvm("build", "busybox", "slow", "--jobs", "2", "--bundle", "raw", "--output", "out", status=1)
    assert "node busybox" in done.stderr
    assert "has no kernel" in done.stderr
    assert done.nodes("BundleFailed") == ["busybox"]
    assert bundles(project) == []
    assert project.leftovers() == []


def test_a_helper_vm_shares_the_cpus_with_what_runs_beside_it(project, settings, monkeypatch):
    shapes = []

    def launch(image, drives, shape, *words, **more):
        shapes.append(shape)
        raise BundleError("that is enough")

    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("sfvm.bundle.workshop.launch", launch)
    key = project.repository.names()["busybox"]
    facts = project.repository.manifest(key).facts
    bundler = Bundler(project.home / "out", project.repository, settings, lambda event: None, lambda directory: None)
    (job,) = bundler.jobs("busybox", key, facts, [request("tar", {})])
    for at_once in (1, 2, 4):
        with pytest.raises(BundleError, match="that is enough"):
            job.run(NEVER, at_once)
    assert [shape.cpus for shape in shapes] == [4, 2, 1]


def test_of_all_formats_those_are_left_out_that_want_a_kernel(project, settings):
    """As ``--bundle all`` asks for them."""
    told = []
    key = project.repository.names()["busybox"]
    facts = project.repository.manifest(key).facts
    bundler = Bundler(project.home / "out", project.repository, settings, told.append, lambda directory: None)
    wanted = [replace(request(name, {}), optional=True) for name in ("raw", "tar")]
    for job in bundler.jobs("busybox", key, facts, wanted):
        job.run(NEVER, 1)
    skipped = [event for event in told if type(event).__name__ == "BundleSkipped"]
    assert [(event.format, event.reason) for event in skipped] == [("raw", "/boot has no vmlinuz-*")]
    assert bundles(project) == ["busybox-tar"]


def test_a_format_that_fails_leaves_its_siblings_out_and_is_told_once(project):
    """Both share a layout; the one that is complete before the other fails stays."""
    (project.home / "formats").mkdir()
    for name, template in (("good", "{{ name }}"), ("bad", "{{ nothing }}")):
        (project.home / "formats" / f"{name}.j2").write_text(template)
        (project.home / "formats" / f"{name}.xml").write_text(
            f'<format xmlns="urn:sfvm:1" name="{name}" produces="img">'
            '<layout table="gpt"><root/><boot loader="none"/></layout>'
            f'<template from="{name}.j2" as="{name}.txt"/></format>'
        )
    done = project.sfvm("bundle", "busybox", "good", "bad", "--output", "out", status=1)
    assert "cannot be filled in" in done.stderr
    assert "bad" in [event["format"] for event in done.all("BundleFailed")]
    assert len(done.all("BundleFailed")) + len(done.all("Bundled")) == 2
    assert bundles(project) == [f"busybox-{event['format']}" for event in done.all("Bundled")]
    assert done.stdout.split() == [f"out/{name}" for name in bundles(project)]


def test_what_is_in_the_way_is_told_before_anything_is_built(project):
    (project.home / "out" / "trunk-raw").mkdir(parents=True)
    done = project.sfvm("build", "trunk", *BUNDLE, status=1)
    assert "is in the way" in done.stderr
    assert done.all("NodeStarted") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_bundle_leaves_nothing(project, number):
    """The disk is being composed, by a qemu-img that does not end by itself."""
    program = project.home / "bin" / "qemu-img"
    program.parent.mkdir()
    endless = 'case " $* " in *" --target-is-zero "*) exec sleep 1000;; esac'
    program.write_text(f'#!/bin/sh\n{endless}\nexec {shutil.which("qemu-img")} "$@"\n')
    program.chmod(0o755)
    path = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    running = project.start("bundle", "busybox", "qcow2", "raw", *BUNDLE[2:], environment=path)
    running.until("Bundling", format="qcow2", phase="convert qcow2")
    running.interrupt() if number == signal.SIGINT else os.kill(running.process.pid, number)
    done = running.end(60)
    project.check(done)
    assert done.status == 128 + number
    assert done.all("BundleFailed") == []
    assert bundles(project) == []
    assert project.leftovers() == []
