"""Commands in the guest and in the appliance: output, status, limits, what they may touch and what they leave."""

import time

import pytest

from sfvm.appliance.machine import Appliance
from sfvm.guest import Command, CommandFailed

pytestmark = pytest.mark.vm


def output(appliance: Appliance, log: list[str], command: Command) -> list[str]:
    """The lines that *command* logs."""
    start = len(log)
    appliance.guest.run(command)
    return log[start:]


def test_every_line_arrives_in_order(appliance: Appliance, log: list[str]) -> None:
    count = 100_000
    assert output(appliance, log, Command(f"seq {count}")) == [str(i) for i in range(1, count + 1)]


def test_odd_lines(appliance: Appliance, log: list[str]) -> None:
    script = r"echo; printf 'a\377b\n\n'; head -c 50000 /dev/zero | tr '\0' x; echo; echo error >&2; printf end"
    assert output(appliance, log, Command(script)) == ["", "a\ufffdb", "", "x" * 50000, "error", "end"]


def test_output_is_live(appliance: Appliance, log: list[str]) -> None:
    seen: list[float] = []
    original = appliance.channel.log
    appliance.channel.log = lambda line: seen.append(time.monotonic())
    try:
        appliance.guest.run(Command("echo first; sleep 4; echo second"))
    finally:
        appliance.channel.log = original
    assert seen[1] - seen[0] > 1.5


@pytest.mark.parametrize("status", [1, 7, 126, 255])
def test_status_is_exact(appliance: Appliance, status: int) -> None:
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command(f"echo out; echo err >&2; exit {status}"))
    assert failed.value.status == status
    assert sorted(failed.value.output) == ["err", "out"]


def test_last_lines_are_in_the_error(appliance: Appliance) -> None:
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command("seq 1000; false"))
    assert failed.value.output == tuple(str(i) for i in range(981, 1001))


def test_capture(appliance: Appliance, log: list[str]) -> None:
    start = len(log)
    assert appliance.guest.capture(Command(r"printf 'a\377\n\n'; echo told >&2")) == "a\ufffd\n\n"
    assert log[start:] == ["told"]
    assert len(appliance.guest.capture(Command("head -c 3000000 /dev/zero | tr '\\0' x"))) == 1 << 20


def test_timeout(appliance: Appliance) -> None:
    start = time.monotonic()
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command("echo begun; sleep 1000", timeout=3))
    assert failed.value.status == 124
    assert failed.value.output == ("begun",)
    assert time.monotonic() - start < 60


def test_timeout_of_a_command_that_does_not_want_to_end(appliance: Appliance) -> None:
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command("trap '' TERM; while :; do sleep 1; done", timeout=1))
    assert failed.value.status == 124


def test_nothing_survives_a_command(appliance: Appliance) -> None:
    appliance.guest.run(
        Command("(trap '' TERM HUP; sleep 4321) & setsid sleep 4321 & mount -t tmpfs t /tmp; echo x >/run/left")
    )
    assert "4321" not in appliance.run("ps ax | grep '[s]leep 4321' || true")
    assert appliance.run("cd /sysroot; ls run tmp; grep -c sysroot/ /proc/mounts || true").split() == [
        "run:",
        "tmp:",
        "0",
    ]
    assert appliance.run("ls /run/sfvm").split() != []  # this very command
    assert len(appliance.run("ls /run/sfvm").split()) == 1


def test_environment(appliance: Appliance) -> None:
    value = "a 'b' \"c\" $d \\ \n e"
    lines = appliance.guest.capture(Command('printf "%s" "$X"', env={"X": value}))
    assert lines == value
    names = {line.partition("=")[0] for line in appliance.guest.capture(Command("env")).splitlines()}
    assert {"PATH", "HOME", "LANG", "TERM", "DEBIAN_FRONTEND"} <= names
    assert names <= {"PATH", "HOME", "LANG", "TERM", "DEBIAN_FRONTEND", "PWD", "SHLVL", "OLDPWD", "_"}


def test_user_and_directory(appliance: Appliance) -> None:
    appliance.guest.directory("/home/alice", owner="alice")
    command = Command("id -u; id -g; id -G; echo $HOME; pwd; touch mine", user="alice", cwd="/home/alice")
    assert appliance.guest.capture(command).split() == ["1000", "1001", "1001", "6", "/home/alice", "/home/alice"]
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command("true", user="nobody-here"))
    assert "nobody-here" in failed.value.output[-1]
    with pytest.raises(CommandFailed):
        appliance.guest.run(Command("true", cwd="/not/there"))


def test_shell(appliance: Appliance) -> None:
    assert appliance.guest.capture(Command("BEGIN { print 6 * 7 }", shell="/usr/bin/awk -f")) == "42\n"
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command("true", shell="/bin/missing"))
    assert failed.value.status == 127


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("place", ["guest", "appliance"])
def test_a_loopback_of_its_own(appliance: Appliance, network: bool, place: str) -> None:
    """And no other network, with network or without."""
    script = "tail -n +3 /proc/net/dev | cut -d: -f1; tail -n +2 /proc/net/route | wc -l"
    assert appliance.guest.capture(Command(script, network=network, place=place)).split() == ["lo", "0"]


def test_a_large_script(appliance: Appliance) -> None:
    script = "".join(f"# {'x' * 1000}\n" for _ in range(500)) + "echo done\n"
    assert appliance.guest.capture(Command(script)) == "done\n"


def test_a_full_disk_is_an_error_of_the_command(appliance: Appliance) -> None:
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.run(Command("dd if=/dev/zero of=/fill bs=1M"))
    assert any("No space left" in line for line in failed.value.output)
    appliance.guest.remove("/fill")
    assert appliance.alive()


def test_appliance_sees_the_guest(appliance: Appliance) -> None:
    assert appliance.run("ls /sysroot/bin/busybox; id -u").split() == ["/sysroot/bin/busybox", "0"]
    assert appliance.run(f"blkid -o value -s TYPE {appliance.device(0)}").strip() == "ext4"


CALLS = """
use strict;
for ([74, 9999], [75, 9999], [162], [306, 9999], [277, 9999, 0, 0, 0], [26, 0, 4096, 4], [26, 0, 4096, 1]) {
    my ($number, @arguments) = @$_;
    $! = 0;
    my $status = syscall $number, @arguments, (0) x (6 - @arguments);
    printf "%d %d\\n", $status, $!;
}
"""
"""fsync, fdatasync, sync, syncfs, sync_file_range and msync of no file and no memory; the last does not wait anyway."""
EBADF, ENOMEM = 9, 12


def test_nothing_waits_for_the_disk(appliance: Appliance) -> None:
    """The calls succeed without being made; the rest of the system is as it was."""

    def made(command: str) -> list[str]:
        return appliance.guest.capture(Command(CALLS, shell=command, place="appliance")).splitlines()

    assert made("/usr/bin/perl") == [f"-1 {EBADF}"] * 2 + ["0 0"] + [f"-1 {EBADF}"] * 2 + [f"-1 {ENOMEM}"] * 2
    assert made("/usr/lib/sfvm/nosync /usr/bin/perl") == ["0 0"] * 6 + [f"-1 {ENOMEM}"]


def test_commands_of_the_guest_do_not_wait_for_the_disk(appliance: Appliance) -> None:
    assert "Seccomp:\t2\n" in appliance.guest.capture(Command("cat /proc/self/status", user="alice"))
    assert "Seccomp:\t0\n" in appliance.guest.capture(Command("cat /proc/self/status", place="appliance"))


def test_the_appliance_speaks_utf8(appliance: Appliance, log: list[str]) -> None:
    start = len(log)
    command = Command("echo ${#X}", shell="/bin/bash -e", env={"LC_ALL": "C.UTF-8", "X": "äö"}, place="appliance")
    assert appliance.guest.capture(command) == "2\n"
    assert log[start:] == []


def test_a_tool_fails_with_its_last_words(appliance: Appliance) -> None:
    assert appliance.tool("echo one; echo two") == "one\ntwo"
    with pytest.raises(CommandFailed) as failed:
        appliance.tool("echo told >&2; false\necho not reached")
    assert "told" in "".join(failed.value.output)
    assert appliance.alive()
