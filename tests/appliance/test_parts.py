"""The parts of the appliance that need no VM."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sfvm.appliance import hypervisor, image, kernel, packages
from sfvm.errors import ApplianceError
from sfvm.events import Event, ignore
from sfvm.guest import Package


def test_the_newest_readable_kernel_with_modules_is_chosen(tmp_path: Path) -> None:
    (tmp_path / "boot").mkdir()
    for version, complete in (("6.1.0-9-amd64", True), ("6.1.0-10-amd64", True), ("6.9.0-1-amd64", False)):
        modules = tmp_path / "lib" / "modules" / version
        modules.mkdir(parents=True)
        (tmp_path / "boot" / f"vmlinuz-{version}").touch()
        if complete:
            (modules / "modules.dep").touch()
    found = kernel._newest(tmp_path)
    assert found is not None
    assert found.version == "6.1.0-10-amd64"
    assert kernel._newest(tmp_path / "boot") is None


def test_the_emulator_takes_a_cpu_model_a_state_and_a_directory(tmp_path: Path) -> None:
    emulator = tmp_path / "emulator"
    emulator.write_text('#!/bin/sh\nprintf "<%s>" "$TMPDIR" "$@"; cat <&9\n', encoding="utf-8")
    emulator.chmod(0o755)
    wrapper = tmp_path / "wrapper"
    wrapper.write_text(image._wrapper(str(emulator)), encoding="utf-8")
    state = tmp_path / "a state"
    state.write_text("memory", encoding="utf-8")

    def told(*arguments: str | Path) -> str:
        environment = {**os.environ, "TMPDIR": "/t"}
        words = ["bash", wrapper, *arguments]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False).stdout

    assert told("-cpu", "max", "-append", "a  b '$x'", "") == "</t><-cpu><max><-append><a  b '$x'><>"
    assert told("-cpu", "max", "-smp", "2", "-sfvm-cpu", "q,+v") == "</t><-cpu><q,+v><-smp><2>"
    assert told("-sfvm-state", state, "-smp", "2") == "</t><-incoming><fd:9><-smp><2>memory"
    assert told("-sfvm-state", tmp_path / "gone", "-smp", "2") == "</t><-smp><2>"
    assert told("-sfvm-tmp", tmp_path / "a b", "-smp", "2") == f"<{tmp_path}/a b><-smp><2>"


def test_dpkg_status() -> None:
    status = (
        "Package: a\nStatus: install ok installed\nVersion: 1:2\n continued: x\n\nPackage: b\nStatus: deinstall ok x\n"
        "\nPackage: c\nStatus: install ok installed\n\nVersion: 1\nStatus: install ok installed\n"
    )
    assert list(packages.dpkg(status)) == [Package("a", "1:2", "")]


def test_apk_database() -> None:
    assert list(packages.apk("C:Q1\nP:musl\nV:1.2-r0\nA:x86_64\n\nF:lib\n")) == [Package("musl", "1.2-r0", "x86_64")]


def test_keys_that_rpm_trusts_are_no_packages() -> None:
    output = "foo\t3:1-1\tnoarch\ngpg-pubkey\t8483c65d-5ccc5b19\t(none)\ngpg-pubkey\t1-2\t(none)\n"
    assert list(packages.listed(output)) == [Package("foo", "3:1-1", "noarch")]
    assert list(packages.listed("glibc\t2.40-1\n")) == [Package("glibc", "2.40-1")]


def test_who_is_started_only_after_the_first_look_is_killed_too(tmp_path: Path) -> None:
    over = threading.Event()
    killing = threading.Thread(target=hypervisor.kill_until, args=(over, tmp_path))
    killing.start()
    words = [sys.executable, "-c", "import time; time.sleep(60)", "-nodefaults", tmp_path]
    with subprocess.Popen(words) as late:
        late.wait(120)
    over.set()
    killing.join(60)
    assert late.returncode == -signal.SIGKILL
    assert not killing.is_alive()


def test_a_domain_that_ends_while_ours_is_looked_for_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirt = pytest.importorskip("libvirt")

    class Domain:
        def __init__(self, description: str) -> None:
            self.description = description

        def XMLDesc(self) -> str:
            if not self.description:
                raise libvirt.libvirtError("no domain with that UUID")
            return self.description

    class Connection:
        def listAllDomains(self, flags: int) -> list[Domain]:
            return [Domain(""), Domain("another"), Domain(f"<domain>{tmp_path}</domain>")]

    monkeypatch.setattr(hypervisor, "connect", lambda uri: Connection())
    assert hypervisor.Libvirt("qemu:///session", tmp_path).started(None) == f"<domain>{tmp_path}</domain>"


def test_a_connection_that_does_not_answer_is_told() -> None:
    with pytest.raises(ApplianceError) as failed:
        hypervisor.choose("qemu+unix:///session?socket=/nowhere", ignore)
    assert "--connection" in str(failed.value.hint)


def test_auto_without_a_daemon_starts_qemu_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Event] = []
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert hypervisor.choose("auto", told.append) == "direct"
    monkeypatch.setattr("shutil.which", lambda *_, **__: "/usr/sbin/libvirtd")
    monkeypatch.setattr(hypervisor, "SESSION", "qemu+unix:///session?socket=/nowhere")
    assert hypervisor.choose("auto", told.append) == "direct"
    assert len(told) == 1
