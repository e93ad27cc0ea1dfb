"""Steps that put files into the guest: what they read, what counts for the key, what is refused."""

import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from sfvm.downloads.policy import Policy
from sfvm.errors import SpecError
from tests.sources.servers import web
from tests.verbs import Directory, Maker

SHA = hashlib.sha256(b"content").hexdigest()


def lay(make: Maker, name: str, content: bytes = b"content", mode: int = 0o640) -> Path:
    path = make.specs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_file_is_its_text(make: Maker, guest: Directory) -> None:
    step = make('<file path="/etc//motd" mode="4755" owner="www:www">\n one &amp; two\n</file>')
    step.run(guest)
    assert guest.read("/etc/motd") == b"\n one & two\n"
    assert guest.at("/etc/motd").stat().st_mode & 0o7777 == 0o4755
    assert guest.owners["/etc/motd"] == "www:www"
    assert step.inputs() == {"path": "/etc/motd", "text": "\n one & two\n", "mode": "4755", "owner": "www:www"}
    assert step.title() == "file /etc/motd"


@pytest.mark.parametrize("path", ["etc/motd", "", "/etc/../../x", "/..", "../x"])
@pytest.mark.parametrize(
    "xml",
    [
        '<file path="{}"/>',
        '<directory path="{}"/>',
        '<remove path="{}"/>',
        '<symlink path="{}" target="x"/>',
        '<edit path="{}"><line text="a"/></edit>',
        '<copy from="spec.xml" to="{}"/>',
        '<unpack from="spec.xml" to="{}"/>',
        '<download url="http://127.0.0.1/" sha256="00" to="{}"/>',
    ],
)
def test_paths_of_the_guest_are_absolute(make: Maker, xml: str, path: str) -> None:
    assert "is no absolute path of the guest" in make.refused(xml.format(path)).what


@pytest.mark.parametrize("mode", ["888", "17777", "rw"])
def test_modes_are_octal(make: Maker, mode: str) -> None:
    assert "is not octal" in make.refused(f'<file path="/x" mode="{mode}"/>').what


def test_a_directory_keeps_what_is_not_named(make: Maker, guest: Directory) -> None:
    guest.directory("/srv", mode=0o700)
    make('<directory path="/srv/"/>').run(guest)
    assert guest.at("/srv").stat().st_mode & 0o7777 == 0o700
    assert guest.owners == {}
    step = make('<directory path="/srv" mode="0755" owner="www"/>')
    step.run(guest)
    assert guest.at("/srv").stat().st_mode & 0o7777 == 0o755
    assert step.inputs() == {"path": "/srv", "mode": "0755", "owner": "www"}


def test_symlink_and_remove(make: Maker, guest: Directory) -> None:
    make('<symlink path="/link" target="/etc/x"/>').run(guest)
    assert guest.at("/link").readlink() == Path("/etc/x")
    make('<remove path="/link"/>').run(guest)
    assert not guest.exists("/link")
    assert "target is empty" in make.refused('<symlink path="/link" target=""/>').what


@pytest.mark.parametrize("path", ["/", "//", "/.", "/./"])
def test_the_root_stays(make: Maker, path: str) -> None:
    assert "root cannot be removed" in make.refused(f'<remove path="{path}"/>').what


def test_copy_of_a_file(make: Maker, guest: Directory) -> None:
    lay(make, "web/a")
    step = make('<copy from="web/a" to="/b"/>')
    step.run(guest)
    assert guest.read("/b") == b"content"
    assert guest.at("/b").stat().st_mode & 0o7777 == 0o640
    assert step.inputs() == {"to": "/b", "owner": None, "content": {"sha256": SHA, "mode": "0640"}}
    assert step.title() == "copy web/a to /b"
    make('<copy from="web/a" to="/etc/"/>').run(guest)
    assert guest.read("/etc/a") == b"content"


def test_with_a_mode_that_of_the_host_does_not_count(make: Maker) -> None:
    step = make('<copy from="{}" to="/b" mode="0755"/>'.format(lay(make, "a").name))
    before = step.inputs()
    lay(make, "a", mode=0o600)
    assert step.inputs() == before
    assert before["content"]["mode"] == "0755"


def test_copy_of_a_directory(make: Maker, guest: Directory) -> None:
    lay(make, "site/index.html")
    (make.specs / "site" / "link").symlink_to("index.html")
    step = make('<copy from="site/" to="/srv/www" owner="www"/>')
    step.run(guest)
    assert guest.read("/srv/www/index.html") == b"content"
    assert guest.at("/srv/www/link").is_symlink()
    before = step.inputs()
    assert before["content"] == {"index.html": {"mode": "0640", "sha256": SHA}, "link": {"target": "index.html"}}
    lay(make, "site/index.html", b"changed")
    assert step.inputs() != before
    assert "mode is for one file" in make.refused('<copy from="site" to="/x" mode="0600"/>').what


@pytest.mark.parametrize("verb", ['<copy from="{}" to="/x"/>', '<unpack from="{}" to="/x"/>'])
def test_sources_stay_in_the_directory_of_the_spec(make: Maker, verb: str) -> None:
    (make.home / "secret").write_text("secret")
    make.specs.mkdir()
    (make.specs / "link").symlink_to(make.home / "secret")
    (make.specs / "up").symlink_to("..")
    for source in ("../secret", "/etc/passwd", "link", "up/secret"):
        assert "leaves the spec's directory" in make.refused(verb.format(source)).what
    assert "does not exist" in make.refused(verb.format("nowhere")).what


def test_a_device_in_a_copied_directory_is_refused(make: Maker) -> None:
    lay(make, "site/a")
    os.mkfifo(make.specs / "site" / "fifo")
    with pytest.raises(SpecError, match="no file, directory or symlink"):
        make('<copy from="site" to="/x"/>').inputs()


def pack(path: Path, name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        member.size = 7 if kind == tarfile.REGTYPE else 0
        tar.addfile(member, io.BytesIO(b"content"))
    return path


def test_unpack(make: Maker, guest: Directory) -> None:
    archive = pack(make.specs / "a.tar", "deep/file")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    step = make(f'<unpack from="a.tar" to="/opt" sha256="{digest.upper()}"/>')
    assert step.inputs() == {"to": "/opt", "content": {"sha256": digest}}
    assert step.title() == "unpack a.tar to /opt"
    step.run(guest)
    assert guest.read("/opt/deep/file") == b"content"
    assert make('<unpack from="a.tar" to="/opt"/>').inputs() == step.inputs()


def test_unpack_from_a_url(make: Maker, guest: Directory) -> None:
    content = pack(make.specs / "a.tar", "deep/file").read_bytes()
    (make.specs / "a.tar").unlink()
    digest = hashlib.sha256(content).hexdigest()
    with web(content) as server:
        guest.policy = Policy(named=frozenset({f"127.0.0.1:{server.port}"}))
        step = make(f'<unpack src="{server.url}" to="/opt" sha256="{digest}"/>')
        assert step.inputs() == {"to": "/opt", "content": {"sha256": digest}}
        assert step.title() == "unpack d.bin to /opt"
        assert server.requests == []
        for _ in range(2):
            step.run(guest)
        assert guest.read("/opt/deep/file") == b"content"
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    "attributes", ['src="http://h/a.tar"', f'src="sftp://h/a.tar" sha256="{"0" * 64}"', 'src="../a.tar"']
)
def test_what_unpack_cannot_have(make: Maker, attributes: str) -> None:
    (make.home / "a.tar").write_bytes(b"")
    make.refused(f'<unpack {attributes} to="/opt"/>')


def test_unpack_of_more_than_there_is_room_for(make: Maker, guest: Directory) -> None:
    path = make.specs / "a.tar"
    path.parent.mkdir(exist_ok=True)
    member = tarfile.TarInfo("large")
    member.size = 1 << 60
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(SpecError, match=r"a\.tar is refused: it unpacks to more than"):
        make('<unpack from="a.tar" to="/opt"/>').run(guest)


def test_unpack_of_another_content_is_refused(make: Maker) -> None:
    pack(make.specs / "a.tar", "file")
    error = make.refused(f'<unpack from="a.tar" to="/opt" sha256="{"0" * 64}"/>')
    assert "a.tar is not what the spec expects" in error.what
    assert "its sha256 is" in str(error.why)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_unpack_of_members_outside_is_refused_before_anything(make: Maker, guest: Directory, name: str) -> None:
    pack(make.specs / "a.tar", name)
    with pytest.raises(SpecError, match=r"a\.tar is refused: member"):
        make('<unpack from="a.tar" to="/opt"/>').run(guest)
    assert not guest.exists("/opt")
