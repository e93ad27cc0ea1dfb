"""The files of tars, and bundles that are compared by them."""

import gzip
import hashlib
import io
import json
import lzma
import os
import subprocess
import tarfile
import tracemalloc

import pytest
import zstandard

from sfvm.contents import bundles, tars
from sfvm.contents.entry import Entry
from sfvm.errors import SfvmError

ODD = b"a\n\xff"
NODE = {"node": "web", "key": "a" * 64, "format": "tar", "packages": [["nginx", "1", "amd64"]]}


def member(name, kind=tarfile.REGTYPE, content=b"", **more):
    found = tarfile.TarInfo(os.fsdecode(name) if isinstance(name, bytes) else name)
    found.type, found.size = kind, len(content)
    for key, value in more.items():
        setattr(found, key, value)
    return found, content


def tar_of(*members):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


MEMBERS = (
    member("./", tarfile.DIRTYPE, mode=0o755),
    member("./etc/", tarfile.DIRTYPE, mode=0o755),
    member("./etc/motd", content=b"hello\n", mode=0o644, uid=5, gid=6),
    member("./etc/again", tarfile.LNKTYPE, linkname="./etc/motd"),
    member("./etc/third", tarfile.LNKTYPE, linkname="./etc/again"),
    member("./etc/link", tarfile.SYMTYPE, linkname="../x", mode=0o777),
    member("./null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
    member(b"./" + ODD, content=b"x" * 3000000, mode=0o4755, pax_headers={"SCHILY.xattr.user.a": "v\udcff"}),
    member("./fifo", tarfile.FIFOTYPE, pax_headers={"SCHILY.acl.access": "user::rw-"}),
)

PACKERS = {
    ".tar": bytes,
    ".tar.gz": gzip.compress,
    ".tar.xz": lzma.compress,
    ".tar.zst": lambda data: zstandard.compress(data[:2000]) + zstandard.compress(data[2000:]),
}


@pytest.mark.parametrize("suffix", PACKERS)
def test_entries_are_the_members(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(PACKERS[suffix](tar_of(*MEMBERS)))
    found = tars.entries(path)
    hello = Entry("file", 0o644, 5, 6, 6, links=3, digest=hashlib.sha256(b"hello\n").hexdigest())
    assert found == {
        b".": Entry("directory", 0o755),
        b"etc": Entry("directory", 0o755),
        b"etc/motd": hello,
        b"etc/again": hello,
        b"etc/third": hello,
        b"etc/link": Entry("symlink", 0o777, target=b"../x"),
        b"null": Entry("character device", 0o666, device="1:3"),
        ODD: Entry(
            "file", 0o4755, size=3000000, xattrs={"user.a": "76ff"}, digest=hashlib.sha256(b"x" * 3000000).hexdigest()
        ),
        b"fifo": Entry("fifo", 0o644, xattrs={"system.posix_acl_access": "user::rw-"}),
    }
    wanted = {name: found[name] for name in (b"etc/again", b"etc/motd", b"etc")}
    assert tars.contents(path, wanted) == dict.fromkeys((b"etc/again", b"etc/motd"), b"hello\n")


def test_a_tar_of_gnu_tar_says_what_lstat_does(tmp_path):
    (tmp_path / "tree/d").mkdir(parents=True)
    (tmp_path / "tree/d/a").write_text("a")
    os.link(tmp_path / "tree/d/a", tmp_path / "tree/d/b")
    subprocess.run(
        ["tar", "--format=posix", "--xattrs", "-C", "tree", "-cf", "x.tar", "."], cwd=tmp_path, check=True, timeout=60
    )
    found = tars.entries(tmp_path / "x.tar")
    status = (tmp_path / "tree/d/a").stat()
    assert found.keys() == {b".", b"d", b"d/a", b"d/b"}
    assert (found[b"d/b"].owner, found[b"d/b"].mode, found[b"d/b"].links) == (
        status.st_uid,
        status.st_mode & 0o7777,
        2,
    )


HEADERS = (
    {"GNU.sparse.size": "abc"},
    {"GNU.sparse.map": "1,a"},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
    {"size": "-5"},
)


def test_a_header_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of(member("x", pax_headers={"SCHILY.xattr.user.a": "x" * (60 << 20)})))
    tracemalloc.start()
    try:
        with pytest.raises(SfvmError, match="a header of"):
            tars.entries(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_damaged_tars_are_told(tmp_path):
    whole = tar_of(*MEMBERS)
    for suffix, content in (
        (".tar", b"no tar at all" * 100),
        *((".tar", tar_of(member("x", pax_headers=headers))) for headers in HEADERS),
        (".tar", whole.rstrip(b"\0") + b"?" * 1024),
        (".tar.gz", gzip.compress(whole)[:500]),
        (".tar.xz", lzma.compress(whole)[:100]),
        (".tar.zst", b"\x28\xb5\x2f\xfd\xff\xff\xff"),
    ):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(content)
        with pytest.raises(SfvmError, match="no tar archive, or damaged"):
            tars.entries(path)
    with pytest.raises(SfvmError, match="damaged"):
        tars.entries(tmp_path / "nowhere.tar")


def bundle(directory, *members, suffix=".tar.gz", **changes):
    """A bundle as sfvm writes it, as far as it is looked at."""
    directory.mkdir()
    told = {**NODE, **changes}
    content = PACKERS[suffix](tar_of(*members))
    name = f"{told['node']}{suffix}"
    (directory / name).write_bytes(content)
    blob = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps({"artifacts": {name: blob}, **told}))
    return bundles.opened(directory)


def test_bundles_of_two_nodes_are_compared_by_their_tars(tmp_path):
    one = bundle(tmp_path / "one", *MEMBERS)
    more = member("./etc/motd", content=b"goodbye\n", mode=0o644, uid=5, gid=6)
    other = bundle(tmp_path / "other", *MEMBERS[:2], more, *MEMBERS[5:], node="api")
    told = []
    files, texts, notes = bundles.compare(one, other, told.append)
    assert [path for path, _ in files.removed] == [b"etc/again", b"etc/third"]
    (change,) = files.changed
    assert change.differs == ("size", "links", "content")
    assert texts[b"etc/motd"].endswith("-hello\n+goodbye")
    assert notes == ()
    assert [event.done for event in told] == [False, True]
    assert "web.tar.gz and" in told[0].what
    assert [*one.blobs] == ["${name}.tar.gz"] == [*other.blobs]
    assert other.path("${name}.tar.gz").name == "api.tar.gz"


@pytest.mark.parametrize("back", [False, True])
def test_a_file_that_becomes_a_hard_link_is_shown(tmp_path, back):
    """What it links to is the same on both sides, so its content is not wanted for itself."""
    a, b = (member(f"etc/{name}", content=name.encode() + b"\n", mode=0o644) for name in "ab")
    etc = member("etc", tarfile.DIRTYPE, mode=0o755)
    sides = [
        bundle(tmp_path / "one", etc, a, b),
        bundle(tmp_path / "other", etc, a, member("etc/b", tarfile.LNKTYPE, linkname="etc/a")),
    ]
    _, texts, _ = bundles.compare(*(sides[::-1] if back else sides), print)
    assert {path: text.split("\n")[-2:] for path, text in texts.items()} == {
        b"etc/b": ["-a", "+b"] if back else ["-b", "+a"]
    }


def test_a_text_in_a_private_directory_is_not_shown(tmp_path):
    root = member("root", tarfile.DIRTYPE, mode=0o700)
    sides = [bundle(tmp_path / n, root, member("root/token", content=n.encode(), mode=0o644)) for n in ("one", "two")]
    files, texts, _ = bundles.compare(*sides, print)
    assert ([change.path for change in files.changed], texts) == ([b"root/token"], {})


def test_of_several_members_of_a_name_the_last_counts(tmp_path):
    """The earlier ones are passed over, whatever their size; a hard link keeps what it was made to."""
    path = tmp_path / "x.tar"
    members = [member("a", content=content) for content in (b"x" * (60 << 20), b"old", b"new")]
    path.write_bytes(tar_of(*members[:2], member("b", tarfile.LNKTYPE, linkname="a"), members[2]))
    tracemalloc.start()
    try:
        assert tars.contents(path, tars.entries(path)) == {b"a": b"new", b"b": b"old"}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_equal_tars_are_not_read(tmp_path):
    one, other = (bundle(tmp_path / name, *MEMBERS) for name in ("one", "other"))
    for path in tmp_path.glob("*/web.tar.gz"):
        path.unlink()
    files, texts, _ = bundles.compare(one, other, lambda message: pytest.fail(message))
    assert (bool(files), texts) == (False, {})


def test_an_artifact_of_another_size_is_damaged(tmp_path):
    one, other = (bundle(tmp_path / name, *MEMBERS[:n], suffix=".tar") for name, n in (("one", 3), ("other", 4)))
    with (tmp_path / "other/web.tar").open("r+b") as file:
        file.truncate(1536)  # for tarfile, a member ends it as well as any
    with pytest.raises(SfvmError, match=r"web\.tar is damaged"):
        bundles.compare(one, other, print)
    (tmp_path / "other/web.tar").unlink()
    with pytest.raises(SfvmError, match=r"web\.tar is damaged"):
        bundles.compare(one, other, print)


def test_of_disk_images_the_nodes_are_named(tmp_path):
    blobs = {"web.qcow2": {"size": 1, "sha256": "0"}}
    one, other = (bundle(tmp_path / name, format="qcow2", artifacts=blobs, key=name * 32) for name in ("ab", "cd"))
    files, _, notes = bundles.compare(one, other, print)
    assert files is None
    assert "sfvm diff abababababab cdcdcdcdcdcd" in notes[0]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        json.dumps({**NODE, "artifacts": {"../x": {"size": 1, "sha256": "0"}}}),
        json.dumps({**NODE, "artifacts": {"x": {"size": "a", "sha256": "0"}}}),
        json.dumps({**NODE, "artifacts": {}, "packages": [["a", "b", "c", "d"]]}),
        *(
            json.dumps({**NODE, "artifacts": {"x": {"size": size, "sha256": "0"}}})
            for size in (-1, 1.5, "1", float("inf"), True, None)
        ),
        "[" * 200_000,
        json.dumps({**NODE, "artifacts": {}, "packages": 1}),
    ],
)
def test_what_is_no_bundle_is_told(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(SfvmError, match="is no bundle"):
        bundles.opened(tmp_path)
