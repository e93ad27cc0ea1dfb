"""What the scripts of the appliance print, run on this host, and how it is read."""

import os
import re
import shutil
import socket
import subprocess

import pytest

from sfvm.contents import scripts
from sfvm.contents.entry import Entry

PERL = shutil.which("perl")
MKE2FS = shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
DEBUGFS = shutil.which("debugfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
pytestmark = pytest.mark.skipif(not (PERL and MKE2FS and DEBUGFS), reason="perl, mke2fs and debugfs are wanted")

ODD = b"a\\b\n\xff \x1b[31m"


def run(script, tree, where, wanted=()):
    """The outputs of *script* in the directory *tree*: found, and found more."""
    names = where / "names"
    names.write_bytes(scripts.wanted(wanted))
    setting = f"here={where} wanted={names}\n"
    subprocess.run(["bash", "-ec", setting + script], cwd=tree, check=True, timeout=60)
    return tuple((where / name).read_bytes() if (where / name).exists() else b"" for name in ("found", "more"))


@pytest.fixture
def tree(tmp_path):
    made = tmp_path / "tree"
    (made / "d").mkdir(parents=True)
    (made / os.fsdecode(ODD)).write_bytes(b"content")
    (made / "d/empty").touch(mode=0o600)
    os.link(made / "d/empty", made / "d/again")
    (made / "link").symlink_to(os.fsdecode(b"\xfe\n"))
    os.mkfifo(made / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(made, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    return made


def test_names_have_their_stamp(tree, tmp_path):
    found, _ = run(scripts.names_script(scripts.INODE), tree, tmp_path)
    stamps = scripts.parse_names(found)
    assert stamps.keys() == {b".", b"d", ODD, b"d/empty", b"d/again", b"link", b"fifo", b"socket"}
    assert stamps[ODD] == b"%d" % (tree / os.fsdecode(ODD)).stat().st_ino
    found, _ = run(scripts.names_script(scripts.STAMP), tree, tmp_path)
    assert re.fullmatch(rb"\d+:\d+\.\d+", scripts.parse_names(found)[b"d/again"])


def test_entries_are_what_lstat_says(tree, tmp_path):
    wanted = [b".", ODD, b"d/empty", b"link", b"fifo", b"socket", b"not there"]
    found, more = run(scripts.ENTRIES_SCRIPT, tree, tmp_path, wanted)
    entries = scripts.parse_details(found)
    assert [*entries] == wanted[:-1]
    assert scripts.parse_xattrs(more).keys() <= entries.keys()
    mine = os.getuid(), os.getgid()
    assert entries[b"."].kind == "directory"
    assert entries[b"."].links == 1
    assert entries[ODD] == Entry("file", (tree / os.fsdecode(ODD)).stat().st_mode & 0o7777, *mine, size=7)
    assert entries[ODD].disk > 0
    assert entries[b"d/empty"] == Entry("file", 0o600, *mine, links=2)
    assert entries[b"d/empty"].inode == (tree / "d/again").stat().st_ino
    assert entries[b"link"] == Entry("symlink", 0o777, *mine, target=b"\xfe\n")
    assert entries[b"fifo"].kind == "fifo"
    assert entries[b"socket"].kind == "socket"
    everything, _ = run(scripts.EVERYTHING + scripts.ENTRIES_SCRIPT, tree, tmp_path)
    assert len(scripts.parse_details(everything)) == 8


def test_contents_and_digests_are_of_the_named_files(tree, tmp_path):
    found, _ = run(scripts.DIGESTS_SCRIPT, tree, tmp_path, [ODD, b"d/empty"])
    digests = scripts.parse_digests(found)
    assert digests[ODD] == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    assert scripts.with_digests({ODD: Entry("file")}, digests)[ODD].digest == digests[ODD]
    assert run(scripts.CONTENTS_SCRIPT, tree, tmp_path, [ODD, b"d/empty"])[0] == b"content"


def test_xattrs_are_read_with_their_names():
    dump = (
        b"# file: ./a\\134b\\012\xff\nsecurity.capability=0x0100\nuser.empty=\nuser.odd\\075=0x00\n\n"
        b"# file: .\nuser.a=0x61\n\n"
    )
    assert scripts.parse_xattrs(dump) == {
        b"a\\b\n\xff": {"security.capability": "0100", "user.empty": "", "user.odd=": "00"},
        b".": {"user.a": "61"},
    }
    entry = scripts.with_xattrs({b".": Entry("directory"), b"x": Entry("file")}, scripts.parse_xattrs(dump))
    assert entry[b"."].xattrs == {"user.a": "61"}
    assert entry[b"x"].xattrs == {}


@pytest.mark.parametrize(
    ("parse", "output"),
    [
        (scripts.parse_names, b"12 ./a\x0013"),
        (scripts.parse_names, b"12\0"),
        (scripts.parse_details, b"1 2 3\0./a\0\0"),
        (scripts.parse_details, b"1 2 3 4 5 6 7 8\0./a\0"),
        (scripts.parse_digests, b"abc\0"),
        (scripts.parse_xattrs, b"# file: ./a\nuser.a=0x\xff\n"),
    ],
)
def test_an_output_that_is_none_is_refused(parse, output):
    with pytest.raises(ValueError):
        parse(output)


def debugfs(disk, *commands):
    subprocess.run(
        [DEBUGFS, "-w", "-f", "-", disk], input="\n".join(commands), text=True, check=True, capture_output=True
    )


def changed(one, other, where, ranges):
    """What the script says of two disks, whose differences lie in *ranges*."""
    listed = where / "ranges"
    listed.write_text("".join(f"{start} {end}\n" for start, end in ranges))
    done = subprocess.run([PERL, "-e", scripts.INODES, listed, one, other], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("options", [("-b", "1024"), ("-b", "4096"), ("-I", "128"), ("-O", "^64bit"), ("-t", "ext3")])
def test_changed_inodes_are_found_in_the_ranges_alone(tmp_path, options):
    one, other = tmp_path / "one", tmp_path / "other"
    with one.open("wb") as file:
        file.truncate(300 << 20)
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"file-{number}").write_text(str(number))
    kind = () if "-t" in options else ("-t", "ext4")
    subprocess.run([MKE2FS, "-q", "-F", *kind, *options, "-d", source, one], check=True, timeout=60)
    shutil.copyfile(one, other)
    told = subprocess.run([DEBUGFS, "-R", "stat /file-7", one], capture_output=True, text=True, check=True).stdout
    seven = re.search(r"Inode: (\d+)", told)[1]
    debugfs(other, "sif /file-7 mode 0100600", "sif /file-9 atime 20200101")
    everything = [(0, 300 << 20)]
    assert changed(one, other, tmp_path, everything) == ["ready", seven]
    assert changed(one, one, tmp_path, everything) == ["ready"]
    place = subprocess.run([DEBUGFS, "-R", "imap /file-7", one], capture_output=True, text=True, check=True).stdout
    block = re.search(r"located at block (\d+)", place)[1]
    size = int(re.search(r"Block size:\s+(\d+)", _superblock(one))[1])
    start = int(block) * size
    assert changed(one, other, tmp_path, [(0, start), (start + size, 300 << 20)]) == ["ready"]
    assert changed(one, other, tmp_path, [(0, 1024), (start, start + size)]) == ["ready", seven]


def _superblock(disk):
    return subprocess.run([DEBUGFS, "-R", "stats -h", disk], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("offset", "value"),
    [(1024 + 0x58, b"\0\0"), (1024 + 0x150, b"\xff" * 4), (1024 + 0x20, bytes(4)), (1024 + 0xFE, b"\0\0")],
)
def test_a_damaged_superblock_ends_it(tmp_path, offset, value):
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run([MKE2FS, "-q", "-F", "-t", "ext4", "-b", "1024", "-O", "64bit", disk], check=True, timeout=60)
    assert changed(disk, disk, tmp_path, [(0, 64 << 20)]) == ["ready"]
    with disk.open("r+b") as file:
        file.seek(offset)
        file.write(value)
    assert changed(disk, disk, tmp_path, [(0, 64 << 20)]) == []


def test_disks_of_other_shapes_are_not_compared_by_inodes(tmp_path):
    disks = []
    for name, options in (("one", ("-N", "1024")), ("other", ("-N", "4096")), ("none", None)):
        disk = tmp_path / name
        with disk.open("wb") as file:
            file.truncate(64 << 20)
        if options:
            subprocess.run([MKE2FS, "-q", "-F", "-t", "ext4", *options, disk], check=True, timeout=60)
        disks.append(disk)
    assert changed(disks[0], disks[1], tmp_path, [(0, 64 << 20)]) == []
    assert changed(disks[0], disks[2], tmp_path, [(0, 64 << 20)]) == []
