"""What a node's files tell of it."""

import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from sfvm.contents import capabilities, inspection
from sfvm.contents.entry import Entry
from sfvm.contents.inspection import Kernel, Service
from sfvm.errors import SfvmError
from sfvm.events import ignore
from sfvm.repository import Manifest

DIRECTORY, FILE = Entry("directory", 0o755), Entry("file", 0o644, size=10, disk=4096)


def link(target):
    return Entry("symlink", 0o777, target=target)


ENTRIES = {
    b".": DIRECTORY,
    b"bin": link(b"usr/bin"),
    b"usr": DIRECTORY,
    b"usr/bin": DIRECTORY,
    b"usr/bin/bash": Entry("file", 0o755, size=1 << 20, disk=1 << 20),
    b"usr/bin/sh": link(b"bash"),
    b"usr/bin/su": Entry("file", 0o4755, size=10, disk=4096),
    b"usr/bin/write": Entry("file", 0o2755, size=10, disk=4096),
    b"usr/bin/ping": Entry("file", 0o755, xattrs={capabilities.XATTR: "0100000200200000000000000000000000000000"}),
    b"usr/sbin/nologin": FILE,
    b"etc": DIRECTORY,
    b"etc/os-release": link(b"../usr/lib/os-release"),
    b"usr/lib/os-release": FILE,
    b"etc/systemd/system/default.target": link(b"/lib/systemd/system/multi-user.target"),
    b"etc/systemd/system/multi-user.target.wants": DIRECTORY,
    b"etc/systemd/system/multi-user.target.wants/ssh.service": link(b"/lib/systemd/system/ssh.service"),
    b"etc/systemd/system/cloud.target.requires/x@y.service": link(b"/lib/x"),
    b"etc/systemd/system/apt-daily.timer": link(b"/dev/null"),
    b"etc/systemd/system/display-manager.service": link(b"/lib/systemd/system/gdm.service"),
    b"etc/runlevels/boot": DIRECTORY,
    b"etc/runlevels/boot/hostname": link(b"/etc/init.d/hostname"),
    **dict.fromkeys((b"root", b"root/.ssh", b"home", b"home/no", b"home/no/.ssh"), DIRECTORY),
    b"root/.ssh/authorized_keys": FILE,
    b"home/no/.ssh/authorized_keys": Entry("file", 0o600),
    b"tmp": Entry("directory", 0o1777),
    b"srv/open": Entry("directory", 0o777, disk=4096),
    b"srv/open/file": Entry("file", 0o666, disk=8192, links=2, inode=7),
    b"srv/alias": Entry("file", 0o666, disk=8192, links=2, inode=7),
    b"boot/vmlinuz-6.1": FILE,
    b"usr/lib/modules/6.1": DIRECTORY,
    b"usr/lib/modules/5.10": DIRECTORY,
    b"usr/lib/modules/6.12": DIRECTORY,
    b"usr/lib/modules/6.12/vmlinuz": FILE,
}
TEXTS = {
    "etc/os-release": "# a comment\nID=debian\nPRETTY_NAME=\"Debian 'x'\"\nVERSION_ID='12'\nBROKEN=\"\nno line\n",
    "etc/passwd": "\n".join(
        [
            "root:x:0:0:root:/root:/bin/bash",
            "daemon:x:1:1::/:/usr/sbin/nologin",
            "open:x:1000:1000::/home/open:",
            "no:x:1001:1000::/home/no:/bin/sh",
            "gone:x:1002:1000::/:/bin/zsh",
            "old:$1$x:1003:1000::/:/bin/sh",
            "bad line",
            "worse:x:number:0::/:/bin/sh",
            "missing:x:1004:1004::/:/bin/sh",
        ]
    ),
    "etc/shadow": "root:*:1::::::\nopen::1::::::\nno:!$6$hash:1::::::\n",
    "etc/group": "root:x:0:\nusers:x:1000:\nsudo:x:27:open,root\n",
}


@pytest.fixture
def found():
    manifest = Manifest(
        key="a" * 64, name="web", parent=None, parent_name=None, inputs={}, spec="", steps=(), digest="c" * 64, size=1,
        disk=1, filesystem="ext4", facts={}, packages=(("nginx", "1", "amd64"),), created=1.0, seconds=1.0,
        provenance={}, depth=0,
    )  # fmt: skip
    return inspection.of(manifest, ENTRIES, TEXTS)


def test_who_can_log_in(found):
    assert {user.name: (user.password, user.keys, user.login, user.groups) for user in found.users} == {
        "root": ("locked", True, True, ("root", "sudo")),
        "open": ("none", False, True, ("users", "sudo")),
        "no": ("locked", False, False, ("users",)),
        "old": ("set", False, True, ("users",)),
        "missing": ("locked", False, False, ()),
    }
    assert next(user.shell for user in found.users if user.name == "open") == "/bin/sh"
    assert "hash" not in str(found.to_json())


@pytest.mark.parametrize("space", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r"])
def test_only_a_newline_ends_a_line(found, space):
    """Else the second half of a line would be what is told, and root's account would not."""
    texts = {"etc/passwd": f"toor:x:0:0:{space}:/root:/bin/sh\n", "etc/shadow": f"toor::{space}\n"}
    (user,) = inspection.of(found.manifest, ENTRIES, texts).users
    assert (user.name, user.number, user.password) == ("toor", 0, "none")
    assert inspection.release(f"ID=a{space}NAME=b\n").keys() == {"ID"}


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("toor::+0:0:::/bin/sh", 0),
        ("toor:: 0:0:::/bin/sh", 0),
        ("toor::-0:0:::/bin/sh", 0),
        (f"toor::{'0' * 5000}:0:::/bin/sh", 0),
        ("toor::+0010:0:::/bin/sh", 10),
        ("toor::4294967295:0:::/bin/sh", 4294967295),
        (" \ttoor::0:0:::/bin/sh", 0),
        ("toor::0:0", 0),
        ("toor::0:0::/root:/bin/sh:more", 0),
        ("toor::-1:0:::/bin/sh", None),
        ("toor::\u0660:0:::/bin/sh", None),
        ("toor::0_0:0:::/bin/sh", None),
        (f"toor::{'1' * 5000}:0:::/bin/sh", None),
        ("toor:::0:::/bin/sh", None),
        (" # toor::0:0:::/bin/sh", None),
    ],
)
def test_who_is_somebody_for_the_c_library(found, line, number):
    users = inspection.of(found.manifest, ENTRIES, {"etc/passwd": line}).users
    assert [(user.name, user.number, user.password) for user in users] == (
        [] if number is None else [("toor", number, "none")]
    )


def test_of_two_lines_of_a_user_the_first_counts(found):
    texts = {"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "etc/shadow": "root::1\nroot:*:1\n"}
    assert inspection.of(found.manifest, ENTRIES, texts).users[0].password == "none"


def test_a_database_that_is_too_large_is_an_error(found, monkeypatch):
    passwd = {b"etc/passwd": Entry("file", 0o644, size=inspection.READ + 1)}
    trees = SimpleNamespace(entries=lambda: [{b".": DIRECTORY, b"etc": DIRECTORY, **passwd}])
    monkeypatch.setattr(inspection, "reading", lambda *_: nullcontext(trees))
    with pytest.raises(SfvmError, match="node web: /etc/passwd is too large"):
        inspection.inspect(found.manifest, None, None, ignore)


def test_what_starts(found):
    assert found.enabled == (
        Service("gdm.service", "display-manager.service"),
        Service("hostname", "boot"),
        Service("ssh.service", "multi-user.target"),
        Service("x@y.service", "cloud.target"),
    )
    assert found.masked == ("apt-daily.timer",)
    assert found.target == "multi-user.target"


def test_what_is_masked_does_not_start(found):
    units = b"etc/systemd/system/"
    masked = ("ssh.service", "gdm.service", "x@.service")
    entries = {**ENTRIES, **{units + name.encode(): link(b"/dev/null") for name in masked}}
    inspected = inspection.of(found.manifest, entries, {})
    assert inspected.enabled == (Service("hostname", "boot"),)
    assert inspected.masked == ("apt-daily.timer", *sorted(masked))


@pytest.mark.parametrize(
    ("paths", "kernels"),
    [
        ({"boot/vmlinuz-virt", "lib/modules/6.12.8-0-virt"}, [("6.12.8-0-virt", "/boot/vmlinuz-virt")]),
        (
            {"boot/vmlinuz-linux", "usr/lib/modules/6.9-arch1", "usr/lib/modules/6.9-arch1/vmlinuz"},
            [("6.9-arch1", "/boot/vmlinuz-linux")],
        ),
        (
            {"boot/vmlinuz-lts", "boot/vmlinuz-virt", "lib/modules/6.12-0-lts", "lib/modules/6.12-0-virt"},
            [("6.12-0-lts", "/boot/vmlinuz-lts"), ("6.12-0-virt", "/boot/vmlinuz-virt")],
        ),
        (
            {"boot/vmlinuz-0-rescue", "boot/vmlinuz-6.1", "lib/modules/6.1"},
            [("0-rescue", "/boot/vmlinuz-0-rescue"), ("6.1", "/boot/vmlinuz-6.1")],
        ),
        (
            {"boot/vmlinuz-linux", "lib/modules/5", "lib/modules/6"},
            [("5", ""), ("6", ""), ("linux", "/boot/vmlinuz-linux")],
        ),
        ({"boot/vmlinuz-virt"}, [("virt", "/boot/vmlinuz-virt")]),
    ],
)
def test_kernels_that_are_named_by_their_flavour(paths, kernels):
    entries = {path.encode(): FILE if "vmlinuz" in path else DIRECTORY for path in paths}
    assert [(one.version, one.image) for one in inspection.kernels(entries)] == kernels


def test_who_has_rights(found):
    assert [(path, can) for path, _, can in found.privileged] == [
        (b"usr/bin/ping", ("cap_net_raw",)),
        (b"usr/bin/su", ()),
        (b"usr/bin/write", ()),
    ]
    assert [path for path, _ in found.writable] == [b"srv/alias", b"srv/open", b"srv/open/file"]


def test_release_kernels_and_sizes(found):
    assert found.release == {"ID": "debian", "PRETTY_NAME": "Debian 'x'", "VERSION_ID": "12", "BROKEN": '"'}
    assert found.kernels == (
        Kernel("5.10", ""),
        Kernel("6.1", "/boot/vmlinuz-6.1"),
        Kernel("6.12", "/usr/lib/modules/6.12/vmlinuz"),
    )
    assert found.directories["/usr/bin"] == (1 << 20) + 2 * 4096
    assert found.directories["/srv"] == 8192 + 4096  # a file with two names counts once
    assert found.directories["/"] == sum(e.disk for e in ENTRIES.values()) - 8192
    assert list(found.directories)[:3] == ["/", "/usr", "/usr/bin"]
    assert not any(name.count("/") > inspection.DEPTH for name in found.directories)


def test_json_has_all(found):
    told = found.to_json()
    assert told["distribution"] == {"id": "debian", "version": "12", "name": "Debian 'x'"}
    assert told["packages"] == [{"name": "nginx", "version": "1", "architecture": "amd64"}]
    assert told["services"]["enabled"][1] == {"name": "hostname", "by": "boot"}
    assert told["privileged"][0]["capabilities"] == ["cap_net_raw"]
    assert told["writable"][1] == {"path": "/srv/open", "type": "directory", "mode": "0777", "owner": 0, "group": 0}
    assert told["files"] == len(ENTRIES)


def test_paths_are_resolved_as_the_guest_would():
    entries = {
        **ENTRIES,
        b"loop": link(b"loop"),
        b"out": link(b"../../../../usr/bin/bash"),
        b"usr/absolute": link(b"/bin/sh"),
    }
    for path, place in (
        (b"/bin/sh", b"usr/bin/bash"),
        (b"out", b"usr/bin/bash"),
        (b"usr/absolute", b"usr/bin/bash"),
        (b"/", b"."),
        (b"usr/../bin/./su", b"usr/bin/su"),
        (b"loop", None),
        (b"loop/x", None),
        (b"usr/nothing", None),
        (b"", b"."),
    ):
        assert inspection.resolve(entries, path) == place, path


def test_an_empty_node_has_nothing(found):
    empty = inspection.of(found.manifest, {b".": DIRECTORY}, {})
    assert (empty.users, empty.enabled, empty.privileged, empty.kernels) == ((), (), (), ())
    assert empty.directories == {"/": 0}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("0100000200200000000000000000000000000000", ("cap_net_raw",)),
        ("01000002010000000000000000010000000000c0", ("cap_chown", "cap_checkpoint_restore", "cap_62", "cap_63")),
        ("0000000300000000000400000000000000000000e8030000", ("cap_net_bind_service",)),
        ("", ()),
        ("zz", ()),
        ("0100", ()),
    ],
)
def test_capabilities_have_names(value, names):
    assert capabilities.named(value) == names


def test_the_names_of_capabilities_are_the_kernels():
    header = Path("/usr/include/linux/capability.h")  # linux-libc-dev, which libc6-dev brings
    if not header.exists():
        pytest.skip(f"there is no {header}")
    told = dict(re.findall(r"#define CAP_([A-Z_]+)\s+(\d+)", header.read_text(encoding="utf-8")))
    assert [told[name.upper()] for name in capabilities.NAMES] == [str(n) for n in range(len(capabilities.NAMES))]
