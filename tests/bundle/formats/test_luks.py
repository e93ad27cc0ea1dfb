"""Encrypted parts, judged by cryptsetup and Linux; and where their passphrases are not."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import pytest

from sfvm.appliance.image import Image
from sfvm.appliance.launch import launch
from sfvm.appliance.machine import Drive, Shape
from sfvm.config import Settings
from sfvm.events import ignore
from tests.guests.project import Done, Project
from tests.guests.project import project as project_of
from tests.peers.tools import tool

pytestmark = pytest.mark.vm

PASSPHRASE, OTHER = "correct 'horse' $battery", "a second one, that 1 knows"
FORMAT = """<format xmlns="urn:sfvm:1" name="locked"><summary>locked</summary>
<layout table="gpt"><luks><root/></luks><luks name="served" secret="other"><data size="32M" mount="/srv"/></luks>
<luks><swap size="8M"/></luks></layout><convert to="raw" as="disk"/></format>"""


@pytest.fixture(scope="module")
def made(seed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Done]]:
    secret = tmp_path_factory.mktemp("secret") / "passphrase"
    secret.write_text(f"{PASSPHRASE}\n")
    with project_of(tmp_path_factory.mktemp("luks"), seed) as project:
        (project.home / "formats").mkdir()
        (project.home / "formats" / "locked.xml").write_text(FORMAT)
        project.write("node", "busybox", '<run network="no">mkdir /srv; echo page >/srv/page; echo kept >/kept</run>')
        project.sfvm("build", "node")
        words = ("--secret", f"passphrase=file:{secret}", "--secret", "other=env:OTHER", "--output", "out")
        done = project.sfvm("bundle", "node", "locked", *words, timeout=600, environment={"OTHER": OTHER})
        yield project, done


@pytest.fixture(scope="module")
def disk(made: tuple[Project, Done]) -> Path:
    return made[0].home / "out" / "node-locked" / "disk"


@pytest.fixture(scope="module")
def reader(made: tuple[Project, Done], disk: Path, image: Image) -> Iterator[Callable[[str], str]]:
    """Runs a script in a VM that has the disk as ``$disk``, and the two passphrases in files."""
    settings = Settings(repository=made[0].home / "repository", cache=platformdirs.user_cache_path("sfvm"))
    drives = [Drive(disk, "raw", readonly=True)]
    with launch(image, drives, Shape(), settings, log=lambda line: None, listener=ignore) as appliance:
        appliance.secret("/run/sfvm/given/passphrase", PASSPHRASE.encode())
        appliance.secret("/run/sfvm/given/other", OTHER.encode())

        def read(script: str) -> str:
            head = "export DM_DISABLE_UDEV=1 given=/run/sfvm/given\nmodprobe dm_crypt\nmkdir -p /run/mnt\n"
            return appliance.run(f"{head}disk=$(readlink -f {appliance.device(0)})\n{script}")

        yield read


def partition(disk: Path, number: int, target: Path) -> Path:
    told = subprocess.run([tool("sfdisk"), "--json", disk], capture_output=True, check=True).stdout
    found = json.loads(told)["partitiontable"]["partitions"][number]
    assert found["type"].lower() == "ca7d7ccb-63ed-4c53-861c-1742536059cc"
    where = (f"skip={found['start']}", f"count={found['size']}")
    subprocess.run(["dd", f"if={disk}", f"of={target}", "bs=512", "conv=sparse", "status=none", *where], check=True)
    return target


def test_the_header_says_how_a_passphrase_is_stretched(disk: Path, tmp_path: Path) -> None:
    for number in range(3):
        part = partition(disk, number, tmp_path / "part")
        told = subprocess.run([tool("cryptsetup"), "luksDump", part], capture_output=True, check=True, text=True).stdout
        words = [" ".join(line.split()) for line in told.splitlines()]
        wanted = ("Version: 2", "PBKDF: argon2id", "Time cost: 4", "Memory: 65536", "Threads: 1", "Key: 512 bits")
        assert [line for line in wanted if line not in words] == []


OPEN = """
cryptsetup open --readonly --key-file $given/passphrase ${disk}1 root
cryptsetup open --readonly --key-file $given/other ${disk}2 served
trap 'cd /; umount -R /run/mnt; cryptsetup close served; cryptsetup close root' EXIT
mount -o ro,noload /dev/mapper/root /run/mnt; mount -o ro,noload /dev/mapper/served /run/mnt/srv
"""


def test_linux_reads_the_files_with_the_passphrase(disk: Path, reader: Callable[[str], str]) -> None:
    script = "cd /run/mnt; cat kept srv/page etc/fstab; echo --; cat etc/crypttab; blkid -o value -s UUID ${disk}1"
    kept, page, *rest = reader(OPEN + script).splitlines()
    assert (kept, page) == ("kept", "page")
    fstab, crypttab = rest[: rest.index("--")], rest[rest.index("--") + 1 : -1]
    assert fstab[0].split()[:3] == ["/dev/mapper/root", "/", "ext4"]
    assert [line.split()[1] for line in fstab] == ["/", "/srv", "none"]
    assert [line.split()[0] for line in crypttab] == ["root", "served", "swap"]
    assert crypttab[0] == f"root UUID={rest[-1]} none luks"


def test_another_passphrase_opens_nothing(reader: Callable[[str], str]) -> None:
    tried = "cryptsetup open --test-passphrase --key-file $given/{} ${{disk}}{} && echo opened || echo refused\n"
    pairs = (("passphrase", 1), ("other", 1), ("passphrase", 2), ("other", 2), ("passphrase", 3))
    told = reader("".join(tried.format(name, number) for name, number in pairs))
    assert told.split() == ["opened", "refused", "refused", "opened", "opened"]


def test_nothing_is_in_the_clear(made: tuple[Project, Done], disk: Path) -> None:
    project, done = made
    for text in (PASSPHRASE, OTHER):
        found = subprocess.run(["grep", "-rlaF", "-e", text, project.home], capture_output=True, text=True)
        assert found.stdout == ""
        assert found.returncode == 1
        assert text not in done.stdout + done.stderr
    assert list((project.home / "repository").glob("finished/*")) == []
    assert subprocess.run(["grep", "-caF", "-e", "kept", disk], capture_output=True).returncode == 1


def test_without_a_secret_it_says_which(made: tuple[Project, Done]) -> None:
    stderr = made[0].sfvm("bundle", "node", "locked", "--output", "no", status=1).stderr
    assert "needs the secret 'passphrase'" in stderr
    assert "--secret passphrase=file:PATH" in stderr


def test_a_secret_that_nothing_wants_is_told(made: tuple[Project, Done]) -> None:
    words = ("bundle", "node", "raw", "--secret", "odd=env:ODD", "--output", "odd")
    stderr = made[0].sfvm(*words, status=2, environment={"ODD": PASSPHRASE}).stderr
    assert "no format wants a secret 'odd'" in stderr
    assert PASSPHRASE not in stderr
