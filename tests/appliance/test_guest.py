"""Paths and files of a guest, in the real appliance: nothing leaves the guest's root."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from sfvm.appliance.machine import Appliance
from sfvm.guest import Command, CommandFailed

pytestmark = pytest.mark.vm


def shell(appliance: Appliance, script: str) -> str:
    """*script* in the guest."""
    return appliance.guest.capture(Command(script, network=False)).strip()


def archive(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """A tar file; None makes a directory. Owners are numbers that the appliance has other names for."""
    with tarfile.open(path, "w:" + (path.suffix[1:] if path.suffix != ".tar" else "")) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.uid, member.gid, member.uname = 1234, 4321, "root"
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content or b""))
    return path


def test_write_replaces_atomically_with_mode_and_owner(appliance: Appliance) -> None:
    guest = appliance.guest
    guest.write("/w/deep/file", b"one")
    guest.write("/w/deep/file", b"\xff\x00two", mode=0o4750, owner="alice:disk")
    assert guest.read("/w/deep/file") == b"\xff\x00two"
    assert shell(appliance, "stat -c '%a %u %g' /w/deep/file /w/deep") == "4750 1000 6\n755 0 0"
    assert shell(appliance, "ls /w/deep") == "file"


def test_large_content(appliance: Appliance) -> None:
    content = os.urandom(1 << 10) * 5000
    appliance.guest.write("/large", content)
    target = io.BytesIO()
    appliance.guest.download("/large", target)
    assert target.getvalue() == content
    appliance.guest.remove("/large")


def test_symlinks_in_the_directory_part_stay_in_the_guest(appliance: Appliance, tmp_path: Path) -> None:
    guest = appliance.guest
    guest.directory("/real/inner")
    guest.symlink("/absolute", "/real")
    guest.symlink("/real/above", "../../../../../real/inner")
    guest.write("/absolute/file", b"1")
    guest.write("/real/above/file", b"2")
    (tmp_path / "host").write_bytes(b"3")
    guest.upload(tmp_path / "host", "/absolute/above/uploaded", mode=0o600)
    guest.symlink("/absolute/link", "anything")
    guest.chown("/absolute/inner", "alice", recursive=True)
    guest.directory("/absolute/new/directory")
    assert shell(appliance, "cd /real; cat file inner/file inner/uploaded; readlink link; ls -d new/directory") == (
        "123anything\nnew/directory"
    )
    assert shell(appliance, "stat -c %u /real/inner /real/inner/file") == "1000\n1000"
    guest.remove("/absolute/inner")
    assert not guest.exists("/real/inner")
    assert guest.exists("/real/above"), "a dangling symlink counts"


def test_nothing_of_the_appliance_can_be_reached(appliance: Appliance) -> None:
    guest = appliance.guest
    guest.symlink("/escape", "/../../usr/sbin")
    guest.symlink("/up", "../../../../usr/sbin")
    assert "guestfsd" in appliance.run("ls /usr/sbin")
    for path in ("/escape/guestfsd", "/up/guestfsd", "/../../usr/sbin/guestfsd"):
        assert not guest.exists(path)
        with pytest.raises(CommandFailed):
            guest.read(path)
        guest.remove(path)
    guest.write("/up/written", b"x")
    assert guest.exists("/usr/sbin/written")
    assert "guestfsd" in (everything := appliance.run("ls /usr/sbin"))
    assert "written" not in everything


def test_last_component_is_replaced_not_followed(appliance: Appliance) -> None:
    guest = appliance.guest
    guest.write("/kept", b"kept")
    guest.symlink("/pointer", "/kept")
    guest.write("/pointer", b"new")
    assert guest.read("/kept") == b"kept"
    guest.symlink("/pointer", "/tmp")
    guest.symlink("/pointer", "/kept")
    assert shell(appliance, "readlink /pointer; ls /tmp") == "/kept"
    guest.remove("/pointer")
    assert guest.exists("/kept")


def test_a_directory_is_not_replaced_by_a_file(appliance: Appliance) -> None:
    appliance.guest.write("/full/file", b"")
    for replace in (lambda: appliance.guest.write("/full", b"x"), lambda: appliance.guest.symlink("/full", "x")):
        with pytest.raises(CommandFailed):
            replace()
    assert shell(appliance, "ls /full; ls / | grep -c sfvm-new || true") == "file\n0"


@pytest.mark.parametrize("suffix", [".tar", ".gz", ".xz", ".bz2"])
def test_unpack(appliance: Appliance, tmp_path: Path, suffix: str) -> None:
    source = archive(tmp_path / f"a{suffix}", ("./top", None), ("./top/file", b"content"))
    appliance.guest.unpack(source, f"/unpacked{suffix}")
    assert shell(appliance, f"cd /unpacked{suffix}/top; cat file; stat -c ' %u:%g' . file") == (
        "content 1234:4321\n 1234:4321"
    )


def test_unpack_zstd(appliance: Appliance, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    plain = archive(tmp_path / "a.tar", ("file", b"content"))
    packed = tmp_path / "a.zst"
    packed.write_bytes(zstandard.ZstdCompressor().compress(plain.read_bytes()))
    appliance.guest.unpack(packed, "/zstd")
    assert appliance.guest.read("/zstd/file") == b"content"


def test_unpack_follows_the_guests_symlinks_inside_the_guest(appliance: Appliance, tmp_path: Path) -> None:
    guest = appliance.guest
    guest.directory("/merged/usr/lib")
    guest.directory("/merged-target")
    guest.symlink("/merged/lib", "usr/lib")  # as in every Debian
    guest.symlink("/merged/opt", "/merged-target")
    guest.symlink("/merged/etc", "../../../../etc")
    source = archive(tmp_path / "a.tar", ("lib", None), ("lib/x", b"1"), ("opt/y", b"2"), ("etc/z-unpacked", b"3"))
    guest.unpack(source, "/merged")
    assert shell(appliance, "readlink /merged/lib; cat /merged/usr/lib/x /merged-target/y /etc/z-unpacked") == (
        "usr/lib\n123"
    )
    assert "z-unpacked" not in appliance.run("ls /etc")


def test_unpack_keeps_xattrs_acls_and_hard_links(appliance: Appliance, tmp_path: Path) -> None:
    appliance.run(
        "mkdir -p /sysroot/x/in && cd /sysroot/x/in && echo a >a && ln a b && setfattr -n user.k -v v a"
        " && setfacl -m u:1000:r a && setcap cap_net_raw+ep a && tar --xattrs --acls -cf ../t.tar ."
    )
    packed = io.BytesIO()
    appliance.guest.download("/x/t.tar", packed)
    (tmp_path / "t.tar").write_bytes(packed.getvalue())
    appliance.guest.unpack(tmp_path / "t.tar", "/x/out")
    told = appliance.run("cd /sysroot/x/out; getfattr --only-values -n user.k b; getfacl -nc a; getcap a; stat -c %h a")
    assert told.startswith("v")
    assert "user:1000:r--" in told
    assert "cap_net_raw=ep" in told
    assert told.strip().endswith("2")


def test_a_broken_archive_fails(appliance: Appliance, tmp_path: Path) -> None:
    (tmp_path / "broken.tar").write_bytes(archive(tmp_path / "a.tar", ("f", b"x" * 5000)).read_bytes()[:3000])
    with pytest.raises(CommandFailed):
        appliance.guest.unpack(tmp_path / "broken.tar", "/broken")
    (tmp_path / "broken.gz").write_bytes(b"\x1f\x8b" + b"no gzip at all")
    with pytest.raises(CommandFailed):
        appliance.guest.unpack(tmp_path / "broken.gz", "/broken")


def test_upload_tree(appliance: Appliance, tmp_path: Path) -> None:
    source = tmp_path / "tree"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "tool").write_bytes(b"#!")
    (source / "sub" / "tool").chmod(0o755)
    (source / "link").symlink_to("/etc/passwd")
    appliance.guest.upload_tree(source, "/tree", owner="alice")
    assert shell(appliance, "cd /tree; readlink link; stat -c '%a %u %g' sub/tool link") == (
        "/etc/passwd\n755 1000 1001\n777 1000 1001"
    )


def test_unknown_owner_is_told(appliance: Appliance) -> None:
    with pytest.raises(CommandFailed) as failed:
        appliance.guest.chown("/bin", "nobody-here")
    assert "nobody-here" in failed.value.output[0]


def test_packages_of_a_guest_without_a_database(appliance: Appliance) -> None:
    assert appliance.guest.packages() == ()


def test_packages_of_dpkg(appliance: Appliance) -> None:
    status = (
        b"Package: a\nStatus: install ok installed\nVersion: 1:2-3\nArchitecture: amd64\nDescription: x\n y: z\n\n"
        b"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\nArchitecture: all\n"
    )
    appliance.guest.write("/var/lib/dpkg/status", status)
    packages = appliance.guest.packages()
    appliance.guest.remove("/var/lib/dpkg")
    assert [(package.name, package.version, package.architecture) for package in packages] == [("a", "1:2-3", "amd64")]


def test_names_of_a_directory(appliance: Appliance) -> None:
    guest = appliance.guest
    for name in ("b", "a", ".hidden"):
        guest.write(f"/names/{name}", b"")
    guest.symlink("/to-names", "/names")
    assert guest.names("/names") == guest.names("/to-names") == (".hidden", "a", "b")
    assert guest.names("/names/a") == guest.names("/nowhere") == ()


def test_a_dangling_symlink_is_removed_and_replaced(appliance: Appliance) -> None:
    guest = appliance.guest
    for path in ("/dangling", "/dangling2.sfvm-new"):
        guest.symlink(path, "/nowhere")
    guest.remove("/dangling")
    assert not guest.exists("/dangling")
    guest.write("/dangling2", b"mine")
    assert guest.read("/dangling2") == b"mine"
    assert not guest.exists("/nowhere")
