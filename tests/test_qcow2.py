"""Headers are parsed without opening anything; sealing keeps the content and drops the chain."""

import itertools
import os
import random
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfvm import qcow2
from sfvm.cancellation import Cancellation, Cancelled
from sfvm.errors import SfvmError

MIB = 1 << 20


def qemu_io(path, *commands):
    arguments = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", "-f", "qcow2", "-d", "unmap", *arguments, str(path)], check=True, capture_output=True)


def identical(one, other):
    command = ["qemu-img", "compare", "-U", "-f", "qcow2", "-F", "qcow2", str(one), str(other)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode in (0, 1), found.stderr
    return found.returncode == 0


def chain(directory, backing, seed, count):
    """*count* overlays with random writes, zeroes and discards over *backing*; the last one."""
    dice = random.Random(seed)
    for number in range(count):
        overlay = directory / f"{seed}-{number}.qcow2"
        qcow2.create(overlay, size=None if backing else 32 * MIB, backing=backing)
        commands = []
        for _ in range(12):
            offset, length = dice.randrange(0, 31 * MIB, 512), dice.randrange(512, MIB, 512)
            kind = dice.choice((f"write -P {dice.randrange(1, 255)}", "write -z", "write -zu", "discard"))
            commands.append(f"{kind} {offset} {length}")
        qemu_io(overlay, *commands)
        backing = overlay
    return backing


# Headers


def test_header_of_an_overlay(tmp_path):
    qcow2.create(tmp_path / "base.qcow2", size=5 * MIB)
    (tmp_path / "below").mkdir()
    qcow2.create(tmp_path / "below" / "top.qcow2", backing=tmp_path / "base.qcow2")
    found = qcow2.header(tmp_path / "below" / "top.qcow2")
    assert (found.size, found.backing, found.backing_format) == (5 * MIB, "../base.qcow2", "qcow2")
    assert (found.version, found.data_file, found.encrypted, found.snapshots) == (3, None, False, 0)
    assert qcow2.require_standalone(tmp_path / "base.qcow2").backing is None


def test_a_backing_file_is_refused(tmp_path):
    subprocess.run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            "qcow2",
            "-u",
            "-b",
            "/etc/shadow",
            "-F",
            "raw",
            tmp_path / "evil.qcow2",
            "1M",
        ],
        check=True,
    )
    with pytest.raises(SfvmError, match="/etc/shadow"):
        qcow2.require_standalone(tmp_path / "evil.qcow2")


def test_an_external_data_file_is_refused(tmp_path):
    option = f"data_file={tmp_path / 'secret.raw'}"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", option, tmp_path / "evil.qcow2", "1M"], check=True)
    assert qcow2.header(tmp_path / "evil.qcow2").data_file == str(tmp_path / "secret.raw")
    with pytest.raises(SfvmError, match=r"secret\.raw"):
        qcow2.require_plain(tmp_path / "evil.qcow2")


@pytest.mark.parametrize("keep", ["extension", "bit"])
def test_either_sign_of_a_data_file_is_enough(tmp_path, keep):
    path = tmp_path / "evil.qcow2"
    option = f"data_file={tmp_path / 'secret.raw'}"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", option, path, "1M"], check=True)
    content = bytearray(path.read_bytes())
    if keep == "extension":
        content[72:80] = bytes(8)
    else:
        position = content.index(struct.pack(">I", qcow2.DATA_FILE_EXTENSION))
        content[position : position + 4] = struct.pack(">I", 0x12345678)
    path.write_bytes(content)
    with pytest.raises(SfvmError, match="another file"):
        qcow2.require_standalone(path)


def test_encryption_and_snapshots_are_refused(tmp_path):
    path = tmp_path / "snapshot.qcow2"
    qcow2.create(path, size=MIB)
    subprocess.run(["qemu-img", "snapshot", "-c", "one", path], check=True)
    with pytest.raises(SfvmError, match="1 internal snapshots"):
        qcow2.require_standalone(path)
    locked = tmp_path / "locked.qcow2"
    secret = "secret,id=s,data=abc"
    # AES, not LUKS: for LUKS QEMU measures the CPU's speed, and gives up where the clock of a busy machine is coarse.
    options = "encrypt.format=aes,encrypt.key-secret=s"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "--object", secret, "-o", options, locked, "1M"]
    subprocess.run(command, check=True)
    with pytest.raises(SfvmError, match="encrypted"):
        qcow2.require_standalone(locked)


def test_what_is_no_qcow2(tmp_path):
    (tmp_path / "raw").write_bytes(b"\0" * 4096)
    with pytest.raises(SfvmError, match="magic"):
        qcow2.header(tmp_path / "raw")
    with pytest.raises(SfvmError, match="cannot be read"):
        qcow2.header(tmp_path / "missing")


@given(cut=st.integers(0, 110), changes=st.dictionaries(st.integers(4, 400), st.integers(0, 255), max_size=6))
def test_any_damage_is_an_error_of_ours_or_a_header(tmp_path_factory, cut, changes):
    directory = tmp_path_factory.getbasetemp()
    good = directory / "good.qcow2"
    if not good.exists():
        qcow2.create(good, size=MIB)
    content = bytearray(good.read_bytes())
    for position, value in changes.items():
        content[position] = value
    path = directory / "damaged.qcow2"
    for variant in (content, content[:cut]):
        path.write_bytes(variant)
        try:
            found = qcow2.header(path)
        except SfvmError:
            continue
        assert found.version in (2, 3)


# qemu-img


def test_an_error_tells_why(tmp_path):
    with pytest.raises(SfvmError, match=r"missing\.qcow2"):
        qcow2.convert(tmp_path / "missing.qcow2", tmp_path / "target.qcow2")


def test_missing_qemu_img(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SfvmError, match="cannot be run"):
        qcow2.create(tmp_path / "a.qcow2", size=MIB)


@pytest.fixture
def endless(tmp_path, monkeypatch):
    """A qemu-img that never ends by itself; the file that has its process ID once it runs."""
    told, program = tmp_path / "pid", tmp_path / "bin" / "qemu-img"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $$ >{told}.new; mv {told}.new {told}; exec sleep 1000\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return told


def until(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert condition()


def runs(pid):
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("progress", [None, lambda fraction: None], ids=["silent", "progress"])
def test_it_is_killed_when_the_work_is_cancelled(tmp_path, endless, progress):
    stop, ended = Cancellation(), []

    def work():
        try:
            qcow2.convert(tmp_path / "a", tmp_path / "b", progress=progress, stop=stop)
        except Cancelled:
            ended.append(True)

    worker = threading.Thread(target=work)
    worker.start()
    until(endless.exists)
    stop.cancel()
    worker.join(60)
    assert ended == [True]
    assert not runs(int(endless.read_text()))


def test_it_dies_with_a_killed_process(tmp_path, endless):
    script = "from sfvm import qcow2; qcow2.qemu_img('info', 'x')"
    process = subprocess.Popen([sys.executable, "-c", script])
    until(endless.exists)
    pid = int(endless.read_text())
    assert runs(pid)
    process.kill()
    process.wait()
    until(lambda: not runs(pid))


def test_progress_reaches_the_end(tmp_path):
    source = tmp_path / "source.qcow2"
    qcow2.create(source, size=32 * MIB)
    qemu_io(source, "write -P 7 0 20M")
    seen = []
    qcow2.convert(source, tmp_path / "target.qcow2", progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_rebase_names_the_backing_file_relatively(tmp_path):
    for name in ("one", "two"):
        qcow2.create(tmp_path / f"{name}.qcow2", size=MIB)
    qcow2.create(tmp_path / "top.qcow2", backing=tmp_path / "one.qcow2")
    qcow2.rebase(tmp_path / "top.qcow2", tmp_path / "two.qcow2")
    assert qcow2.header(tmp_path / "top.qcow2").backing == "two.qcow2"


def test_rebase_waits_for_a_qemu_that_ends(tmp_path):
    for name in ("one", "two"):
        qcow2.create(tmp_path / f"{name}.qcow2", size=MIB)
    top = tmp_path / "top.qcow2"
    qcow2.create(top, backing=tmp_path / "one.qcow2")
    holder = subprocess.Popen(["qemu-io", "-f", "qcow2", "-c", "sleep 700", str(top)], stdout=subprocess.DEVNULL)
    try:
        qcow2.rebase(top, tmp_path / "two.qcow2")
    finally:
        holder.kill()
        holder.wait()
    assert qcow2.header(top).backing == "two.qcow2"


def test_check_finds_damage_without_the_backing_file(tmp_path):
    qcow2.create(tmp_path / "base.qcow2", size=MIB)
    top = tmp_path / "top.qcow2"
    qcow2.create(top, backing=tmp_path / "base.qcow2")
    qemu_io(top, "write -P 1 0 256k")
    (tmp_path / "base.qcow2").unlink()
    qcow2.check(top)
    with top.open("r+b") as file:
        file.seek(1 << 16)  # the refcount table
        file.write(bytes(8))
    with pytest.raises(SfvmError, match="check failed"):
        qcow2.check(top)


# Sealing


@pytest.mark.parametrize("seed", range(4))
def test_sealing_keeps_the_content_of_every_chain(tmp_path, seed):
    root = tmp_path / "root.qcow2"
    tip = chain(tmp_path, None, seed, 3)
    qcow2.seal(tip, None, None, root)
    assert identical(tip, root)
    assert qcow2.header(root).backing is None
    # The next node goes on over the unsealed tip, as in a running appliance, and is sealed over the sealed parent.
    above = chain(tmp_path, tip, 100 + seed, 4)
    child = tmp_path / "child.qcow2"
    qcow2.seal(above, tip, root, child)
    assert identical(above, child)
    assert qcow2.header(child).backing == "root.qcow2"
    qcow2.check(child)


def test_converting_a_chain_over_a_parent_loses_data(tmp_path):
    """Why sealing is a rebase: ``qemu-img convert -B`` copies only the top overlay."""
    root = tmp_path / "root.qcow2"
    qcow2.create(root, size=MIB)
    one, two = tmp_path / "one.qcow2", tmp_path / "two.qcow2"
    qcow2.create(one, backing=root)
    qemu_io(one, "write -P 1 0 64k")
    qcow2.create(two, backing=one)
    qemu_io(two, "write -P 2 512k 64k")
    command = ["qemu-img", "convert", "-O", "qcow2", "-B", root, "-F", "qcow2", two, tmp_path / "wrong.qcow2"]
    subprocess.run(command, check=True)
    assert not identical(two, tmp_path / "wrong.qcow2")
    qcow2.seal(two, root, root, tmp_path / "right.qcow2")
    assert identical(two, tmp_path / "right.qcow2")


def test_a_sealed_overlay_is_compact(tmp_path):
    root = tmp_path / "root.qcow2"
    qcow2.create(root, size=8 << 30)
    qemu_io(root, "write -P 1 0 48M")
    tip = tmp_path / "tip.qcow2"
    qcow2.create(tip, backing=root)
    qemu_io(tip, "write -P 2 1G 20M", "write -P 3 2G 1M", "discard 1G 20M", "discard 0 16M", "write -P 0 3G 30M")
    sealed = tmp_path / "sealed.qcow2"
    qcow2.seal(tip, root, root, sealed)
    assert identical(tip, sealed)
    assert sealed.stat().st_size < 2 * MIB  # one megabyte of data; what was trimmed or is zero takes no room
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root.qcow2", "sealed.qcow2", "tip.qcow2"]


def test_a_trimmed_disk_costs_metadata_alone(tmp_path):
    root = tmp_path / "root.qcow2"
    qcow2.create(root, size=64 << 30)
    qemu_io(root, "write -P 1 0 1M")
    tip = tmp_path / "tip.qcow2"
    qcow2.create(tip, backing=root)
    qemu_io(tip, *(f"discard {start}G 1G" for start in range(1, 64)))
    sealed = tmp_path / "sealed.qcow2"
    qcow2.seal(tip, root, root, sealed)
    assert sealed.stat().st_size < 10 * MIB
    qemu_io(sealed, "read -P 0 40G 1M", "read -P 1 0 1M")


def test_a_parent_that_is_not_below_is_refused(tmp_path):
    for name in ("one", "other"):
        qcow2.create(tmp_path / f"{name}.qcow2", size=MIB)
    tip = tmp_path / "tip.qcow2"
    qcow2.create(tip, backing=tmp_path / "one.qcow2")
    with pytest.raises(SfvmError, match="does not lie on"):
        qcow2.seal(tip, tmp_path / "other.qcow2", tmp_path / "other.qcow2", tmp_path / "sealed.qcow2")
    assert not (tmp_path / "sealed.qcow2").exists()


def test_names_that_options_could_take_for_something_else(tmp_path):
    directory = tmp_path / 'a,b:c"d'
    directory.mkdir()
    root, tip, sealed = (directory / f"{name},1.qcow2" for name in ("root", "tip", "sealed"))
    qcow2.create(root, size=MIB)
    qcow2.create(tip, backing=root)
    qemu_io(tip, "write -P 5 64k 64k")
    qcow2.seal(tip, root, root, sealed)
    assert identical(tip, sealed)


def test_sealing_while_qemu_runs_on_top(tmp_path):
    root = tmp_path / "root.qcow2"
    qcow2.create(root, size=32 * MIB)
    tip = chain(tmp_path, root, 7, 3)
    running = tmp_path / "running.qcow2"
    qcow2.create(running, backing=tip)
    node = f"driver=qcow2,node-name=disk,file.driver=file,file.filename={running}"
    export = f"type=nbd-server,addr.type=unix,addr.path={tmp_path / 'socket'}"
    command = ["qemu-storage-daemon", "--blockdev", node, f"--nbd-server={export.split(',', 1)[1]}"]
    command += ["--export", "type=nbd,id=disk,node-name=disk,writable=on"]
    daemon = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "socket").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(SfvmError, match="lock"):  # it has them open, indeed
            qcow2.qemu_img("rebase", "-u", "-f", "qcow2", "-b", str(root), "-F", "qcow2", running)
        sealed = tmp_path / "sealed.qcow2"
        qcow2.seal(tip, root, root, sealed)
        assert daemon.poll() is None
    finally:
        daemon.kill()
        daemon.wait()
    assert identical(tip, sealed)


def test_a_failed_seal_leaves_nothing(tmp_path):
    root = tmp_path / "root.qcow2"
    qcow2.create(root, size=MIB)
    tip = tmp_path / "tip.qcow2"
    qcow2.create(tip, backing=root)
    root.unlink()
    with pytest.raises(SfvmError):
        qcow2.seal(tip, root, root, tmp_path / "sealed.qcow2")
    assert not (tmp_path / "sealed.qcow2").exists()


# Allocation


@pytest.mark.parametrize("seed", range(3))
def test_what_an_overlay_holds_is_where_it_differs(tmp_path, seed):
    base = chain(tmp_path, None, "base", 1)
    top = chain(tmp_path, base, f"top-{seed}", 1)
    spans = qcow2.allocated(top)
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    contents = []
    for path in (base, top):
        raw = tmp_path / f"{path.stem}.raw"
        qcow2.qemu_img("convert", "-f", "qcow2", "-O", "raw", path, raw)
        contents.append(raw.read_bytes())
    for start, end in [(0, 0), *spans]:
        contents = [content[:start] + bytes(end - start) + content[end:] for content in contents]
    assert contents[0] == contents[1]
    assert 0 < sum(end - start for start, end in spans) < 32 * MIB


def test_an_untouched_overlay_holds_nothing(tmp_path):
    qcow2.create(tmp_path / "base", size=MIB)
    qcow2.create(tmp_path / "top", backing=tmp_path / "base")
    (tmp_path / "base").unlink()  # it is not looked at
    assert qcow2.allocated(tmp_path / "top") == ()


def test_zeroes_by_a_flag_are_held(tmp_path):
    qcow2.create(tmp_path / "base", size=MIB)
    qcow2.create(tmp_path / "top", backing=tmp_path / "base")
    qemu_io(tmp_path / "top", "write -z 128k 64k", "write -P 1 192k 64k")
    assert qcow2.allocated(tmp_path / "top") == ((128 << 10, 192 << 10), (192 << 10, 256 << 10))
