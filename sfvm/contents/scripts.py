"""Scripts for the appliance that read nodes' filesystems, and the parsers of what they print.

Each runs with its filesystem as the working directory, reads names from the file ``$wanted`` (each ended by a zero
byte) and writes to ``$here/found`` and ``$here/more``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from sfvm.contents.entry import Entry, entry_of

MOUNT: Mapping[str, str] = {
    **dict.fromkeys(("ext3", "ext4"), "ro,noload"),
    "xfs": "ro,norecovery,nouuid",
    "btrfs": "ro",
}
"""Read-only, to the journal, too: nodes are sealed after they were unmounted (mount(8)). Two of one ancestor have the
same UUID, which btrfs takes for one filesystem on two disks: it wants them one at a time."""

WITH_INODES = frozenset(("ext3", "ext4"))
"""Filesystems of which :data:`INODES` can tell which inodes were changed."""
INODE = "%i"
"""What find(1) prints of every name there: d_ino of readdir(3) alone, so that no inode is read."""
STAMP = "%i:%C@"
"""What it prints for siblings on other filesystems. Both are made of their ancestor's blocks, so a file that neither
was written nor has another owner, mode or link is the same inode with the same change time (inode(7))."""

INODES = r"""
use strict;
my ($ranges, @devices) = @ARGV;
sub bytes {
    my ($file, $offset, $count) = @_;
    my $data = '';
    sysseek $file, $offset, 0 or die "seek: $!";
    while (length $data < $count) { sysread $file, $data, $count - length $data, length $data or die "read: $!" }
    return $data;
}
my (@files, @shapes, @tables);
for (@devices) {
    open my $file, '<:raw', $_ or die "$_: $!";
    my $super = bytes($file, 1024, 1024);
    my ($blocks, $first, $log, $per, $inodes) = unpack 'x4 V x12 V V x4 V x4 V', $super;
    my ($magic, $size, $incompatible, $descriptor) = unpack 'x56 v x30 v x6 V x154 v', $super;
    exit unless $magic == 0xEF53 and $per and $inodes and $size >= 128 and not $incompatible & 0x10;
    my $block = 1024 << $log;
    my $wide = $incompatible & 0x80;
    $descriptor = 32 unless $wide;
    $blocks += (unpack 'x336 V', $super)[0] << 32 if $wide;
    my $groups = int(($blocks - $first + $per - 1) / $per);
    exit unless $descriptor >= 32 and $groups * $descriptor <= 1 << 26;
    my $all = bytes($file, ($first + 1) * $block, $groups * $descriptor);
    my @places;
    for (0 .. $groups - 1) {
        my $place = unpack 'V', substr $all, $_ * $descriptor + 8, 4;
        $place += (unpack 'V', substr $all, $_ * $descriptor + 40, 4) << 32 if $wide and $descriptor >= 64;
        push @places, $place * $block;
    }
    push @files, $file;
    push @shapes, "$block $inodes $size";
    push @tables, \@places;
}
exit if $shapes[0] ne $shapes[1];
my (undef, $inodes, $size) = split / /, $shapes[0];
my $groups = @{$tables[0]} < @{$tables[1]} ? @{$tables[0]} : @{$tables[1]};
for (0 .. $groups - 1) { exit if $tables[0][$_] != $tables[1][$_] }
print "ready\n";
my @order = sort { $tables[0][$a] <=> $tables[0][$b] } 0 .. $groups - 1;
sub masked {
    my ($inode) = @_;
    substr $inode, 8, 4, '';                                     # i_atime, which reading changes
    substr $inode, 120, 2, '';                                   # l_i_checksum_lo, four bytes back
    $inode = substr($inode, 0, 124) . substr($inode, 126, 8) . substr($inode, 138) if $size > 128;
    return $inode;                                               # i_checksum_hi, i_atime_extra
}
sub compare {
    my ($group, $from, $to) = @_;
    while ($from < $to) {
        my $count = $to - $from < 65536 ? $to - $from : 65536;
        my ($one, $other) = map { bytes($_, $from, $count) } @files;
        if ($one ne $other) {
            for (my $at = 0; $at < $count; $at += $size) {
                next if masked(substr $one, $at, $size) eq masked(substr $other, $at, $size);
                print $group * $inodes + ($from - $tables[0][$group] + $at) / $size + 1, "\n";
            }
        }
        $from += $count;
    }
}
open my $list, '<', $ranges or die "$ranges: $!";
my $next = 0;
while (<$list>) {
    my ($start, $end) = split;
    $next++ while $next < @order and $tables[0][$order[$next]] + $inodes * $size <= $start;
    for (my $at = $next; $at < @order and (my $table = $tables[0][$order[$at]]) < $end; $at++) {
        my ($from, $to) = ($table > $start ? $table : $start, $table + $inodes * $size);
        compare($order[$at], $from, $to < $end ? $to : $end);
    }
}
"""
"""The numbers of the inodes that differ between two ext4 filesystems of one ancestor, read from what lies in the byte
ranges of a list: their overlays' clusters. A file that differs has another inode, for a filesystem writes the time
there with whatever it changes. Prints "ready" first, or nothing where the two are not shaped alike.

Source: Linux, ``Documentation/filesystems/ext4`` (superblock, group descriptors, inodes). A filesystem with meta block
groups (0x10) keeps its descriptors elsewhere.
"""

DETAILS = r"""
$/ = "\0";
while (<STDIN>) {
    chomp;
    my @told = lstat or next;
    print "@told[2, 4, 5, 7, 3, 6, 1] ", ($told[12] || 0) * 512, "\0$_\0", -l _ ? readlink : '', "\0";
}
"""


def names_script(stamp: str) -> str:
    """Lists all names, each after its *stamp*."""
    return f"find . -printf {shlex.quote(f'{stamp} %p')}'\\0' >$here/found"


def parse_names(output: bytes) -> dict[bytes, bytes]:
    """Stamps by path.

    :raises ValueError: it is not what the script prints
    """
    found = {}
    for record in _records(output):
        stamp, path = record.split(b" ", 1)
        found[_relative(path)] = stamp
    return found


def wanted(paths: Iterable[bytes]) -> bytes:
    """The list of names for a script."""
    return b"".join(b"./%s\0" % path if path != b"." else b".\0" for path in paths)


EVERYTHING = "wanted=$here/wanted\nfind . -print0 >$wanted\n"
"""Before another script: all names are wanted."""
ENTRIES_SCRIPT = f"""perl -e {shlex.quote(DETAILS)} <$wanted >$here/found
xargs -0 getfattr --no-dereference --dump --match=- --encoding=hex --absolute-names <$wanted >$here/more 2>/dev/null ||
  [ $? = 123 ]
"""
"""What getfattr complains of is that names are not there: xargs(1) then ends with 123."""
DIGESTS_SCRIPT = "xargs -0 sha256sum -z <$wanted >$here/found"
CONTENTS_SCRIPT = "xargs -0 cat <$wanted >$here/found"


def parse_details(output: bytes) -> dict[bytes, Entry]:
    """Entries by path, without xattrs.

    :raises ValueError: it is not what the script prints
    """
    records = list(_records(output))
    found = {}
    for numbers, path, target in zip(records[::3], records[1::3], records[2::3], strict=True):
        mode, owner, group, size, links, device, inode, disk = map(int, numbers.split())
        found[_relative(path)] = entry_of(mode, owner, group, size, links, device, inode, disk, target)
    return found


def parse_xattrs(output: bytes) -> dict[bytes, dict[str, str]]:
    """Values in hexadecimal, by path and name, of getfattr(1)'s dump.

    :raises ValueError: it is none
    """
    found: dict[bytes, dict[str, str]] = {}
    mine: dict[str, str] = {}
    for line in output.split(b"\n"):
        if line.startswith(b"# file: "):
            mine = found.setdefault(_relative(_unquoted(line.removeprefix(b"# file: "))), {})
        elif line:
            name, _, value = line.partition(b"=")
            mine[_unquoted(name).decode("utf-8", errors="surrogateescape")] = value.decode("ascii").removeprefix("0x")
    return found


def parse_digests(output: bytes) -> dict[bytes, str]:
    """SHA-256 by path.

    :raises ValueError: it is not what the script prints
    """
    found = {}
    for record in _records(output):
        digest, path = record.split(b"  ", 1)
        found[_relative(path)] = digest.decode("ascii")
    return found


def with_xattrs(entries: Mapping[bytes, Entry], xattrs: Mapping[bytes, Mapping[str, str]]) -> dict[bytes, Entry]:
    """*entries* with what they have."""
    return {path: replace(e, xattrs=xattrs[path]) if path in xattrs else e for path, e in entries.items()}


def with_digests(entries: Mapping[bytes, Entry], digests: Mapping[bytes, str]) -> dict[bytes, Entry]:
    """*entries* with those that are known."""
    return {path: replace(e, digest=digests[path]) if path in digests else e for path, e in entries.items()}


def _records(output: bytes) -> Iterator[bytes]:
    *whole, rest = output.split(b"\0")
    if rest:
        raise ValueError("it ends within a record")
    yield from whole


def _relative(path: bytes) -> bytes:
    return path.removeprefix(b"./")


def _unquoted(text: bytes) -> bytes:
    """getfattr writes what would end its line, and the backslash, as three octal digits."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), text)
