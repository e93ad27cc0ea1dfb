"""Scripts for the appliance that pack a node's files: as one tar, or as one for each node of its chain, with what it
changed (a layer of OCI's Image Format Specification, "Filesystem Layers")."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sfvm.bundle import sysprep

WORK = "/run/sfvm/layers"
"""In the appliance's own memory."""
EMPTY = ("dev", "proc", "sys", "run")
"""What a container mounts something else on; layers have the directories alone."""
MOUNT = {"ext4": "ro,noload", "xfs": "ro,norecovery", "btrfs": "ro"}
"""Read-only, to the journal, too: nodes are sealed after they were unmounted (mount(8))."""

PRELUDE = """\
for names in passwd group; do
  : >>/etc/$names
  mount --bind /dev/null /etc/$names
done
set -o pipefail
"""
"""GNU tar writes the users of ACLs by name where it can, so it runs where no number has one."""
TAR = (
    "tar --create --numeric-owner --xattrs --xattrs-include='*' --acls --format=posix "
    "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime "
)
CHANGES = r"""
use strict;
use File::Path qw(make_path);
$/ = $\ = "\0";
my ($before, $after, $changed, $gone, $whiteouts) = @ARGV;
sub stamps {
    my (%found, $file);
    open $file, '<', $_[0] or die "$_[0]: $!";
    while (<$file>) { chomp; my ($kind, $stamp, $path) = split / /, $_, 3; $found{$path} = [$kind, $stamp] }
    return \%found;
}
my ($old, $new) = (stamps($before), stamps($after));
open my $list, '>', $changed or die;
for (sort keys %$new) {
    my $was = $old->{$_};
    print $list length ? "./$_" : '.' unless $was && "@$was" eq "@{$new->{$_}}";
}
open $list, '>', $gone or die;
for (sort keys %$old) {
    next if $new->{$_};
    my ($parent, $name) = m{^(.*)/([^/]+)$}s ? ($1, $2) : ('', $_);
    next unless $new->{$parent} && $new->{$parent}[0] eq 'd';  # it went with its directory
    my $path = length $parent ? "./$parent/.wh.$name" : "./.wh.$name";
    make_path("$whiteouts/$1") if $path =~ m{^(.*)/}s;
    open my $file, '>', "$whiteouts/$path" or die "$path: $!";
    close $file;
    utime 0, 0, "$whiteouts/$path";
    print $list $path;
}
"""
"""What two lists of files differ in: names that are new or of another inode or change time, and whiteouts. A child is
made of its parent's blocks, so a file that neither was written nor has another owner, mode or link is the same inode
with the same change time (inode(7))."""


def tar_script(device: str, latest: int) -> str:
    """Archives /sysroot to *device*, and prints how many bytes that took. What sysprep has changed gets the time
    *latest*: equal trees, equal bytes."""
    return f"""{_prelude(device)}
archive 0 --directory=/sysroot --sort=name --one-file-system --exclude=./lost+found --mtime=@{latest} --clamp-mtime .
sync {device}"""


def _prelude(target: str) -> str:
    """Defines ``archive POSITION OPTION…``: a tar, as the options say, written to the block device *target* from that
    byte on; prints how many bytes that took.

    They go past the page cache: what ends within a page, as a record of tar (10 KiB) does, makes the kernel read that
    page before it writes, and emulated, that takes ten times as long as all else. Positions are multiples of a sector,
    as the sizes of tars are."""
    return f"""{PRELUDE}
mkdir -p {WORK}
archive() {{
  from=$1
  shift
  {TAR}--totals "$@" 2>{WORK}/messages |
    dd of={target} bs=1M iflag=fullblock oflag=direct,seek_bytes seek=$from conv=notrunc status=none ||
    {{ cat {WORK}/messages >&2; return 1; }}
  sed '/^Total bytes written: /d' {WORK}/messages >&2
  sed -n 's/^Total bytes written: \\([0-9]*\\).*/\\1/p' {WORK}/messages
}}"""


def chain_script(devices: Sequence[str], filesystem: str, target: str) -> str:
    """Layers of the filesystems on *devices*, each a child of the one before, one after the other to *target*; prints
    the bytes of each. They are mounted one at a time: they have the same UUID."""
    return f"""{_layers(target, hide_identity=True)}
mkdir -p {WORK}/root
: >{WORK}/before
position=0
for device in {" ".join(devices)}; do
  mount -t {filesystem} -o {MOUNT[filesystem]} $device {WORK}/root
  layer {WORK}/root
  umount {WORK}/root
done
sync {target}"""


def last_layer_script(target: str, position: int, latest: int) -> str:
    """The layer of what was changed in /sysroot since, after the first *position* bytes of *target*."""
    return f"""{_layers(target, hide_identity=False)}
position={position}
layer /sysroot --mtime=@{latest} --clamp-mtime
sync {target}"""


def _layers(target: str, *, hide_identity: bool) -> str:
    """Defines ``layer ROOT [OPTION…]``. What sysprep removes is in no layer, not even below another; the identity that
    it empties is in the last one."""
    hidden = [
        *sysprep.GONE,
        *(f"/etc/ssh/ssh_host_{kind}_key{end}" for kind in sysprep.SSH_KEYS for end in ("", ".pub")),
    ]
    hidden += ["/etc/machine-id"] if hide_identity else []
    paths = ["./lost+found", *(f"./{name}/*" for name in EMPTY), *(f".{path}" for path in hidden)]
    left_out = " -o ".join(f"-path {shlex.quote(path)}" for path in paths)
    return f"""{_prelude(target)}
layer() {{
  root=$1
  shift
  (cd "$root" && find . -xdev \\( {left_out} \\) -prune -o ! -type s -printf '%y %i:%C@ %P\\0') >{WORK}/after
  rm -rf {WORK}/whiteouts
  mkdir {WORK}/whiteouts
  perl -e {shlex.quote(CHANGES)} {WORK}/before {WORK}/after {WORK}/changed {WORK}/gone {WORK}/whiteouts
  count=$(archive $position "$@" --no-recursion --directory="$root" --null --files-from={WORK}/changed \\
    --directory={WORK}/whiteouts --files-from={WORK}/gone)
  echo $count
  position=$((position + count))
  mv {WORK}/after {WORK}/before
}}"""
