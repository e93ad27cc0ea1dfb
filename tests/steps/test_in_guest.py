"""Steps in the real appliance, in a guest that the base ``busybox`` made."""

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import zstandard

from sfvm.appliance.image import Image
from sfvm.appliance.machine import Appliance
from sfvm.downloads.access import Access
from sfvm.downloads.policy import Policy
from sfvm.downloads.store import Store
from sfvm.downloads.transfer import Transfers
from sfvm.errors import StepError
from sfvm.guest import Command, CommandFailed
from tests.appliance.conftest import boot, disk
from tests.verbs import Maker, host

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
def log() -> list[str]:
    """Every line that the appliance has logged so far."""
    return []


@pytest.fixture(scope="module")
def appliance(image: Image, log: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    home = tmp_path_factory.mktemp("busybox")
    base = Maker(home)("<busybox/>", "bases")
    with boot(image, disk(home / "disk.qcow2"), log) as running:
        running.format("ext4")
        running.mount()
        base.populate(running.guest, host(home))
        yield running


def do(make: Maker, appliance: Appliance, *elements: str) -> None:
    for element in elements:
        make(element).run(appliance.guest)


def shell(appliance: Appliance, script: str) -> str:
    """What *script* tells, in the guest."""
    return appliance.guest.capture(Command(script, network=False)).strip()


def test_the_base(appliance: Appliance) -> None:
    assert shell(appliance, "id -un; stat -c '%a %u:%g' /tmp /bin/busybox; ls -l /bin/sh | wc -l") == (
        "root\n1777 0:0\n755 0:0\n1"
    )


def test_run(make: Maker, appliance: Appliance, log: list[str]) -> None:
    script = '\n  echo "site=$site A=$A"\n  pwd; id -un\n  ip -o link | wc -l\n'
    xml = f'<run cwd="/tmp" user="nobody" env="A=\'x  y\'" network="no">{script}</run>'
    make(xml, site="example").run(appliance.guest)
    assert log[-4:] == ["site=example A=x  y", "/tmp", "nobody", "1"]
    do(make, appliance, "<run>#!/bin/busybox awk -f\nBEGIN { print 6 * 7 }</run>")
    assert log[-1] == "42"


def test_run_stops_at_the_first_command_that_fails(make: Maker, appliance: Appliance) -> None:
    with pytest.raises(CommandFailed) as caught:
        do(make, appliance, "<run>echo before\ncat /nowhere\necho after</run>")
    assert caught.value.status == 1
    assert "before" in caught.value.output
    assert "after" not in caught.value.output


def test_run_with_a_time_limit(make: Maker, appliance: Appliance) -> None:
    with pytest.raises(CommandFailed) as caught:
        do(make, appliance, '<run timeout="1">sleep 600</run>')
    assert caught.value.status == 124


def test_files(make: Maker, appliance: Appliance) -> None:
    site = make.specs / "site"
    (site / "deep").mkdir(parents=True)
    (site / "deep" / "page").write_text("page")
    (site / "deep" / "page").chmod(0o640)
    (site / "link").symlink_to("/etc/passwd")
    (make.specs / "tool").write_bytes(b"#!/bin/sh\n")
    do(
        make,
        appliance,
        '<file path="/f/new/motd" mode="4750" owner="nobody:nogroup">hello\n</file>',
        '<directory path="/f/made/deep" mode="2775" owner="7:8"/>',
        '<symlink path="/f/link" target="/f/made"/>',
        '<copy from="site" to="/f/www" owner="nobody"/>',
        '<copy from="tool" to="/f/bin/" mode="0755"/>',
    )
    assert shell(appliance, "cd /f; stat -c '%n %a %u:%g' new new/motd made made/deep www/deep/page bin/tool") == (
        "new 755 0:0\nnew/motd 4750 65534:65534\nmade 755 0:0\nmade/deep 2775 7:8\n"
        "www/deep/page 640 65534:65534\nbin/tool 755 0:0"
    )
    assert shell(appliance, "cd /f; cat new/motd; readlink link; readlink www/link") == "hello\n/f/made\n/etc/passwd"
    assert shell(appliance, "stat -c %U /etc/passwd") == "root", "an owner is not given through a link"
    do(make, appliance, '<remove path="/f/link"/>', '<remove path="/f/www"/>', '<remove path="/f/nothing"/>')
    assert shell(appliance, "ls /f") == "bin\nmade\nnew"


def test_a_copied_directory_keeps_what_is_there(make: Maker, appliance: Appliance) -> None:
    (make.specs / "etc").mkdir(parents=True)
    (make.specs / "etc" / "added").write_text("added")
    do(make, appliance, '<copy from="etc/" to="/etc"/>')
    assert shell(appliance, "cat /etc/added; head -n 1 /etc/passwd; stat -c '%a %u' /etc") == (
        "addedroot:x:0:0:root:/root:/bin/sh\n755 0"
    )


def test_links_of_the_guest_never_lead_out_of_it(make: Maker, appliance: Appliance) -> None:
    guest = appliance.guest
    before = appliance.run("ls -lR --time-style=full-iso /etc | md5sum")
    guest.symlink("/out", "/etc")
    guest.symlink("/up", "../../../../../etc")
    guest.write("/etc/shadow", b"root:*:1::::::\n", mode=0o604, owner="3:4")
    guest.symlink("/etc/alias", "/out/../up/shadow")
    do(
        make,
        appliance,
        '<file path="/out/written">1</file>',
        '<file path="/up/raised">2</file>',
        '<edit path="/etc/alias"><replace match="root" with="toor"/></edit>',
    )
    assert shell(appliance, "cd /etc; cat written raised; echo; cat shadow") == "12\ntoor:*:1::::::"
    assert shell(appliance, "stat -c '%a %u:%g' /etc/shadow; readlink /etc/alias") == "604 3:4\n/out/../up/shadow"
    do(make, appliance, '<remove path="/out/written"/>', '<remove path="/up"/>')
    assert shell(appliance, "ls /etc/written /etc/raised 2>&1 || true").endswith("/etc/raised")
    assert appliance.run("ls -lR --time-style=full-iso /etc | md5sum") == before


def test_edit(make: Maker, appliance: Appliance) -> None:
    appliance.guest.write("/e.conf", b"#Port 22\nA=1\r\n\xff\n", mode=0o600, owner="nobody:root")
    do(
        make,
        appliance,
        '<edit path="/e.conf"><set name="Port" value="2222" separator=" "/><line text="last"/></edit>',
    )
    assert appliance.guest.read("/e.conf") == b"Port 2222\nA=1\r\n\xff\nlast\n"
    assert shell(appliance, "stat -c '%a %u:%g' /e.conf") == "600 65534:0"


@pytest.mark.parametrize("form", ["tar", "gz", "xz", "bz2", "zst"])
def test_unpack(make: Maker, appliance: Appliance, form: str) -> None:
    make.specs.mkdir()
    path = make.specs / f"a.{form}"
    with tarfile.open(path, "w:" + (form if form in ("gz", "xz", "bz2") else "")) as tar:  # type: ignore[call-overload]
        member = tarfile.TarInfo("deep/tool")
        member.size, member.mode, member.uid, member.gid, member.uname = 4, 0o4755, 12, 34, "root"
        tar.addfile(member, io.BytesIO(b"tool"))
        member = tarfile.TarInfo("twin")
        member.type, member.linkname = tarfile.LNKTYPE, "deep/tool"
        tar.addfile(member)
    if form == "zst":
        path.write_bytes(zstandard.ZstdCompressor().compress(path.read_bytes()))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    do(make, appliance, f'<unpack from="a.{form}" to="/opt/{form}" sha256="{digest}"/>')
    assert shell(appliance, f"cd /opt/{form}; cat twin; stat -c ' %a %u:%g %h' deep/tool") == "tool 4755 12:34 2"


def test_accounts(make: Maker, appliance: Appliance) -> None:
    steps = (
        '<group name="deploy" gid="2000"/>',
        '<group name="deplo.y"/>',
        '<user name="alice" uid="1500" shell="/bin/sh" groups="deploy" password="$6$salt$hash"'
        ' ssh-key="ssh-ed25519 AAAAC3Nz alice@example"/>',
        '<user name="ali.e" system="yes"/>',
    )
    do(make, appliance, *steps)
    assert shell(appliance, "grep ^alice: /etc/passwd").startswith("alice:")
    assert shell(appliance, "id -u alice; id -Gn alice; id -u ali.e").splitlines()[:2] == ["1500", "alice deploy"]
    assert "$6$salt$hash" in shell(appliance, "cat /etc/shadow /etc/passwd")
    assert shell(appliance, "cd /home/alice/.ssh; cat *; stat -c '%a %U %G' . authorized_keys") == (
        "ssh-ed25519 AAAAC3Nz alice@example\n700 alice alice\n600 alice alice"
    )
    before = shell(appliance, "cat /etc/passwd /etc/group")
    do(make, appliance, *steps[:2], '<user name="alice" uid="1500"/>')
    assert shell(appliance, "cat /etc/passwd /etc/group") == before


def test_names_time_and_language(make: Maker, appliance: Appliance) -> None:
    do(
        make,
        appliance,
        '<hostname name="web1.example.org"/>',
        '<timezone name="UTC"/>',
        '<locale name="C.UTF-8"/>',
        '<keyboard layout="de"/>',
    )
    told = shell(appliance, "cat /etc/hostname /etc/hosts /etc/timezone /etc/locale.conf /etc/vconsole.conf")
    hosts = "127.0.0.1\tlocalhost\n127.0.1.1\tweb1.example.org web1"
    assert told == f"web1\n{hosts}\nUTC\nLANG=C.UTF-8\nKEYMAP=de"


@pytest.mark.parametrize(
    ("element", "what"),
    [
        ('<packages install="a"/>', "no package manager"),
        ('<service enable="a"/>', "no service manager"),
        ('<timezone name="Europe/Berlin"/>', "no time zone Europe/Berlin"),
        ('<locale name="en_GB.UTF-8"/>', "cannot make locales"),
        ('<edit path="/nowhere"><line text="a"/></edit>', "the guest has no /nowhere"),
    ],
)
def test_what_this_guest_cannot_do(make: Maker, appliance: Appliance, element: str, what: str) -> None:
    with pytest.raises(StepError, match=what):
        do(make, appliance, element)


def test_an_owner_that_the_guest_does_not_know(make: Maker, appliance: Appliance) -> None:
    with pytest.raises(CommandFailed, match="exit status") as caught:
        do(make, appliance, '<file path="/x" owner="mallory">1</file>')
    assert "mallory" in caught.value.output[-1]
    assert not appliance.guest.exists("/x")


def test_download(make: Maker, appliance: Appliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tool").write_bytes(b"tool" * 500_000)
    digest = hashlib.sha256(b"tool" * 500_000).hexdigest()
    transfers = Transfers(Store(tmp_path / "downloads"))
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            place = f"127.0.0.1:{server.server_address[1]}"
            monkeypatch.setattr(appliance.guest, "access", Access(transfers, Policy(named=frozenset({place}))))
            url = f"http://{place}/tool"
            do(make, appliance, f'<download url="{url}" sha256="{digest}" to="/d/tool" mode="0755" owner="nobody"/>')
        finally:
            server.shutdown()
            thread.join()
    assert shell(appliance, "sha256sum </d/tool; stat -c '%a %U' /d/tool") == f"{digest}  -\n755 nobody"
