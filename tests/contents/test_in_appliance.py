"""Nodes that differ in every way, compared as users do it."""

import io
import json
import signal
import tarfile

import pytest

from sfvm import qcow2
from sfvm.config import load
from sfvm.contents import nodes, scripts
from sfvm.events import ignore
from tests.guests.project import eventually

pytestmark = pytest.mark.vm

COMMON = r"""<run network="no">mkdir -p /srv/moved/deep /srv/turned /srv/private
for name in /srv/same /srv/written /srv/moved/deep/file /srv/turned/file /srv/gone /srv/mode /etc/shadow \
  /srv/private/token; do
  echo common >$name
done
chmod 640 /etc/shadow
chmod 700 /srv/private
printf 'one\ntwo\nthree\n' >/etc/text
printf '\0' >/srv/binary
ln -s one /srv/link
mknod /srv/device c 1 3
ln /srv/same /srv/alias
</run>"""
CHANGED = r"""<run network="no">mv /srv/moved /srv/renamed
rm -r /srv/turned /srv/gone /srv/device /srv/alias
echo file >/srv/turned
mknod /srv/device c 1 5
chown 5:6 /srv/mode
chmod 4711 /srv/mode
echo secret >>/etc/shadow
echo secret >>/srv/private/token
sed -i s/two/2/ /etc/text
printf '\1' >/srv/binary
ln -sf other /srv/link
echo 'what is written' >/srv/written
touch /srv/same
cp -a /srv/written "$(printf '/srv/new\nline\377')"
ln /srv/written /srv/second
mkfifo /srv/fifo
</run><unpack from="xattrs.tar" to="/srv"/>"""
ODD = "/srv/new\nline\udcff"


@pytest.fixture
def family(project):
    """Writes two specs, ``one`` and ``two``, on the node *parent*."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("labelled")
        member.mode = 0o644
        member.pax_headers = {"SCHILY.xattr.user.label": "value"}
        tar.addfile(member)
    (project.specs / "xattrs.tar").write_bytes(stream.getvalue())

    def write(parent):
        project.write("common", parent, COMMON)
        project.write("one", "common", '<file path="/etc/one">1\n</file>')
        project.write("two", "common", CHANGED)

    return write


def told(project, *words):
    return json.loads(project.sfvm("diff", *words, "--json").stdout)


def check(found):
    """What was told is what ``CHANGED`` says."""
    files = found["files"]
    assert {one["path"]: one["type"] for one in files["removed"]} == {
        "/etc/one": "file",
        "/srv/alias": "file",
        "/srv/gone": "file",
        "/srv/moved": "directory",
        "/srv/moved/deep": "directory",
        "/srv/moved/deep/file": "file",
        "/srv/turned/file": "file",
    }
    added = {one["path"]: one for one in files["added"]}
    assert {path: one["type"] for path, one in added.items()} == {
        "/srv/fifo": "fifo",
        "/srv/labelled": "file",
        ODD: "file",
        "/srv/renamed": "directory",
        "/srv/renamed/deep": "directory",
        "/srv/renamed/deep/file": "file",
        "/srv/second": "file",
    }
    assert added["/srv/labelled"]["xattrs"] == {"user.label": b"value".hex()}
    assert added["/srv/second"]["links"] == 2
    assert {one["path"]: one["differs"] for one in files["changed"]} == {
        "/etc/shadow": ["size", "content"],
        "/etc/text": ["size", "content"],
        "/srv/binary": ["content"],
        "/srv/device": ["device"],
        "/srv/link": ["target"],
        "/srv/mode": ["mode", "owner", "group"],
        "/srv/private/token": ["size", "content"],
        "/srv/same": ["links"],
        "/srv/turned": ["type"],
        "/srv/written": ["size", "links", "content"],
    }
    assert found["texts"].keys() == {"/etc/text", "/srv/written"}
    assert found["texts"]["/etc/text"].splitlines()[3:] == [" one", "-two", "+2", " three"]


def test_siblings_differ_in_what_was_done_to_them(project, family, monkeypatch):
    family("busybox")
    project.sfvm("build", "one", "two")
    check(told(project, "one", "two"))
    shown = project.sfvm("diff", "one", "two", "--exit-code", status=3).stdout
    assert "-  /srv/moved/" in shown
    assert "2 below (7 B)" in shown
    assert r"+  /srv/new\nline\xff" in shown
    assert "common" not in shown.partition("b/etc/shadow")[2]
    assert "~  /srv/mode" in shown

    # Looked at as strangers, in all their files, they differ in the same.
    repository = project.repository
    manifests = [repository.manifest(repository.names()[name]) for name in ("one", "two")]
    settings = load(repository=repository.root, connection="direct")
    kin = nodes.compare(*manifests, repository, settings, ignore)
    with monkeypatch.context() as patch:
        patch.setattr(nodes.Kin, "of", lambda *_: None)
        strangers = nodes.compare(*manifests, repository, settings, ignore)
    assert kin == strangers
    with monkeypatch.context() as patch:
        patch.setattr(scripts, "WITH_INODES", frozenset())
        assert nodes.compare(*manifests, repository, settings, ignore) == kin

    # A parent and its child; and where a flattened twin stands for the parent.
    before = told(project, "common", "two")["files"]
    assert len(before["added"]) == 7
    twin, overlay = repository.flatten(manifests[0].parent), repository.overlay(manifests[1].key)
    overlay.chmod(0o644)
    qcow2.rebase(overlay, twin, name=twin.name)
    check(told(project, "one", "two"))
    assert told(project, "common", "two")["files"] == before


def test_nodes_without_a_common_ancestor_are_compared_in_all_files(project, family):
    family("busybox")
    root = project.specs / "other.xml"
    root.write_text(
        '<filesystem xmlns="urn:sfvm:1" name="other"><disk size="512M" format="ext4"/><base><busybox/></base>'
        '<steps><file path="/etc/other">2\n</file></steps></filesystem>'
    )
    project.sfvm("build", "one", "other")
    done = project.sfvm("diff", "other", "one", "--json")
    assert "other and one have no common ancestor: all their files are read" in done.stderr
    found = json.loads(done.stdout)["files"]
    assert [one["path"] for one in found["removed"]] == ["/etc/other"]
    assert "/bin/busybox" not in str(found)
    assert "/srv/same" in [one["path"] for one in found["added"]]
    assert [one["path"] for one in found["changed"]] == []


@pytest.mark.parametrize("filesystem", ["xfs", "btrfs"])
def test_other_filesystems_are_compared_by_change_times(project, family, filesystem):
    root = project.specs / "other.xml"
    root.write_text(
        f'<filesystem xmlns="urn:sfvm:1" name="other"><disk size="512M" format="{filesystem}"/>'
        "<base><busybox/></base></filesystem>"
    )
    family("other")
    project.sfvm("build", "one", "two")
    check(told(project, "one", "two"))


def test_a_node_is_inspected(project, family):
    family("busybox")
    project.write(
        "three",
        "two",
        '<file path="/etc/os-release">ID=busybox\nPRETTY_NAME="Box"\n</file>',
        '<directory path="/etc/systemd/system/multi-user.target.wants"/>',
        '<symlink path="/etc/systemd/system/multi-user.target.wants/a.service" target="/lib/a"/>',
        '<user name="ann" shell="/bin/sh"/>',
    )
    project.sfvm("build", "three")
    found = json.loads(project.sfvm("inspect", "three", "--json").stdout)
    assert found["distribution"]["name"] == "Box"
    assert found["services"]["enabled"] == [{"name": "a.service", "by": "multi-user.target"}]
    assert [one["path"] for one in found["privileged"]] == ["/srv/mode"]
    assert "ann" in [user["name"] for user in found["users"]]
    assert found["size"] >= found["directories"]["/bin"] > 1 << 20
    text = project.sfvm("inspect", "three").stdout
    assert "a.service  by multi-user.target" in text
    assert "/srv/mode  file 4711 5:6 7 B" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_diff_leaves_nothing(project, number):
    project.write("one", "busybox", '<file path="/etc/one">1\n</file>')
    project.sfvm("build", "one")
    running = project.start("diff", "busybox", "one")
    assert eventually(project.emulators, 120)
    running.interrupt(number)
    done = running.end()
    project.check(done)
    assert done.status == 128 + number
    assert project.leftovers() == []
    assert list((project.home / "repository/tmp").iterdir()) == []
    assert list((project.home / "repository/lock/leases").iterdir()) == []
