"""``sfvm diff`` and ``inspect``: what is in nodes and bundles."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from sfvm.cli.options import Command, Options, complete_built, pass_options
from sfvm.cli.output import columns, plain, plural, size, style, write_json

if TYPE_CHECKING:
    from sfvm.contents.comparison import Changed, Comparison, Files, Packages
    from sfvm.contents.entry import Entry
    from sfvm.contents.inspection import Inspection
    from sfvm.events import Listener

DIFFERENT = 3
"""The exit status of ``diff --exit-code``: 1 and 2 say that there is no answer."""
SHARE = 0.01
"""The least part of all that a directory must have to be listed."""
COLORS = {"+": "green", "-": "red", "~": "yellow", "@": "cyan"}


def _listener(options: Options) -> Listener:
    from sfvm.cli.progress import Plain

    return Plain(sys.stderr, verbose=options.verbose, only_notices=options.quiet)


def _complete_state(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of nodes, and paths."""
    return [*complete_built(context, parameter, incomplete), CompletionItem(incomplete, type="file")]


@click.command(cls=Command)
@click.argument("before", metavar="A", shell_complete=_complete_state)
@click.argument("after", metavar="B", shell_complete=_complete_state)
@click.option("--packages", "packages_only", is_flag=True, help="Compare packages only; that needs no helper VM.")
@click.option("--exit-code", is_flag=True, help=f"Exit {DIFFERENT} when they differ.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@pass_options
def diff(options: Options, before: str, after: str, packages_only: bool, exit_code: bool, as_json: bool) -> int:
    """Show what B has that A has not, and the other way round.

    A and B are nodes (a name, a key, the beginning of a key), directories of bundles, or lock files. Packages are
    compared, files (type, mode, owner, size, links, target, device, xattrs, content; not times), and texts line by
    line. Of bundles, the artifacts are, and the files of tars. The exit status is 0, different or not, unless
    --exit-code is given.

    \b
    Examples:
      sfvm diff debian web
      sfvm diff web 3f9c2a                     the build before
      sfvm diff out/web-tar old/web-tar
      sfvm diff web.lock.xml old.lock.xml
      sfvm diff debian web --packages
      sfvm diff debian web --json | jq -r '.files.added[].path'
    """
    from sfvm.contents import states

    repository = options.open()
    one, other = (states.find(word, repository) for word in (before, after))
    found = states.compare(
        one, other, repository, options.settings(), _listener(options), packages_only=packages_only
    )  # fmt: skip
    if as_json:
        write_json({"a": one.to_json(), "b": other.to_json(), **found.to_json()})
    else:
        for sign, side in (("-", one), ("+", other)):
            click.echo(style(f"{sign * 3} {plain(side.label)}", bold=True))
        for line in _comparison(found, "file" if one.kind == "lock" else "artifact"):
            click.echo(line)
        for note in found.notes:
            click.echo(style(plain(note), stream=sys.stderr, dim=True), err=True)
    return DIFFERENT if exit_code and found else 0


def _comparison(found: Comparison, what: str) -> Iterator[str]:
    if not found:
        yield "no difference"
        return
    yield from _packages(found.packages)
    for one in found.artifacts or ():
        sign = "+" if one.before is None else "-" if one.after is None else "~"
        sizes = [size(blob.size) for blob in (one.before, one.after) if blob is not None]
        yield _signed(f"{sign} {what} {plain(one.name)}  {' → '.join(dict.fromkeys(sizes))}")
    if found.files is not None:
        yield from _files(found.files)
    for path in sorted(found.texts):
        yield ""
        for number, line in enumerate(found.texts[path].split("\n")):
            text = plain(line, keep="\t")
            yield style(text, bold=True) if number < 2 else _signed(text)
    for name, (old, new) in found.sizes.items():
        yield f"\nthe {name}'s size: {size(old)} → {size(new)}"


def _packages(found: Packages) -> Iterator[str]:
    if not found:
        return
    yield _heading("packages", len(found.added), len(found.removed), len(found.changed))
    rows = [
        *(("-", one.name, one.version, one.architecture) for one in found.removed),
        *(("+", one.name, one.version, one.architecture) for one in found.added),
        *(
            ("~", one.name, f"{' '.join(one.before)} → {' '.join(one.after)}", one.architecture)
            for one in found.changed
        ),
    ]
    for line in columns([(sign, *map(plain, rest)) for sign, *rest in rows]):
        yield _signed(line)


def _files(found: Files) -> Iterator[str]:
    if not found:
        return
    yield _heading("files", len(found.added), len(found.removed), len(found.changed))
    rows = [
        *(("-", *row) for row in _folded(found.removed)),
        *(("+", *row) for row in _folded(found.added)),
        *(("~", _path(one.path, one.after), _changes(one)) for one in found.changed),
    ]
    for line in columns(rows):
        yield _signed(line)


def _folded(entries: Sequence[tuple[bytes, Entry]]) -> Iterator[tuple[str, str]]:
    """Names and what they are; what is below a directory that is new (or gone) itself is only counted."""
    tops: dict[bytes, list[Entry]] = {}
    for path, entry in sorted(entries, key=lambda item: item[0].split(b"/")):  # so that a directory comes first
        parts = path.split(b"/")
        top = next((above for n in range(1, len(parts)) if (above := b"/".join(parts[:n])) in tops), path)
        tops.setdefault(top, []).append(entry)
    for path, (entry, *below) in tops.items():
        more = f", {len(below)} below ({size(sum(one.size for one in below))})" if below else ""
        yield _path(path, entry), _description(entry) + more


def _description(entry: Entry) -> str:
    words = [entry.kind, f"{entry.mode:04o}", f"{entry.owner}:{entry.group}"]
    if entry.regular:
        words.append(size(entry.size))
    if entry.links > 1:
        words.append(plural(entry.links, "link"))
    words += [entry.device] if entry.device else []
    words += [f"→ {plain(os.fsdecode(entry.target))}"] if entry.target else []
    return " ".join([*words, *(plain(name) for name in sorted(entry.xattrs))])


def _changes(change: Changed) -> str:
    before, after = change.before, change.after
    told = {
        "type": f"{before.kind} → {after.kind}",
        "mode": f"mode {before.mode:04o} → {after.mode:04o}",
        "owner": f"owner {before.owner} → {after.owner}",
        "group": f"group {before.group} → {after.group}",
        "size": f"{before.size} → {after.size} B",
        "links": f"links {before.links} → {after.links}",
        "target": " → ".join(plain(os.fsdecode(one.target)) for one in (before, after)),
        "device": f"device {before.device} → {after.device}",
        "xattrs": "xattrs " + " ".join(plain(name) for name in _differing(before, after)),
    }
    return ", ".join(told.get(name, name) for name in change.differs)


def _differing(before: Entry, after: Entry) -> list[str]:
    names = before.xattrs.keys() | after.xattrs.keys()
    return sorted(name for name in names if before.xattrs.get(name) != after.xattrs.get(name))


def _heading(what: str, added: int, removed: int, changed: int) -> str:
    counts = ((added, "added"), (removed, "removed"), (changed, "changed"))
    return style(f"\n{what}: " + ", ".join(f"{count} {word}" for count, word in counts if count), bold=True)


def _signed(line: str) -> str:
    return style(line, fg=COLORS.get(line[:1]))


def _path(path: bytes, entry: Entry) -> str:
    from sfvm.contents.entry import shown

    return plain(shown(path)) + ("/" if entry.kind == "directory" and path != b"." else "")


@click.command(cls=Command)
@click.argument("node", shell_complete=complete_built)
@click.option("--json", "as_json", is_flag=True, help="For programs; with all packages and directories.")
@pass_options
def inspect(options: Options, node: str, as_json: bool) -> None:
    """Look into a built NODE: distribution, users, services, privileged files, sizes.

    Users are those with a shell; services those that start with the machine (systemd, OpenRC). Told are also set-uid
    and set-gid files and those with capabilities, what anybody may write, kernels, and the size of directories on the
    disk. NODE is a name, a key, or the beginning of a key; nothing in it is run.

    \b
    Examples:
      sfvm inspect debian
      sfvm inspect web --json | jq '.users[] | select(.login) | .name'
      sfvm inspect web --json | jq -r '.privileged[].path'
    """
    from sfvm.contents import inspection

    repository = options.open()
    manifest = repository.manifest(repository.resolve(node))
    found = inspection.inspect(manifest, repository, options.settings(), _listener(options))
    if as_json:
        write_json(found.to_json())
        return
    for line in _inspection(found):
        click.echo(line)


def _inspection(found: Inspection) -> Iterator[str]:
    yield style(found.manifest.name, bold=True)
    distribution = found.release.get("PRETTY_NAME") or found.release.get("ID") or "unknown"
    facts = [
        ("distribution", plain(distribution)),
        ("kernel", ", ".join(plain(one.version) for one in found.kernels) or "none"),
        ("packages", str(len(found.manifest.packages))),
        ("files", f"{found.files}, {size(found.directories['/'])}"),
    ]
    facts += [("starts", plain(found.target))] if found.target else []
    for line in columns([(style(name, dim=True), value) for name, value in facts]):
        yield "  " + line
    yield from _section(
        "users",
        (
            (user.name, str(user.number), user.shell, _way_in(user.password, user.keys), " ".join(user.groups))
            for user in found.users
        ),
    )
    yield from _section("services", ((service.name, f"by {service.by}") for service in found.enabled))
    yield from _section("masked", ((name,) for name in found.masked))
    yield from _section(
        "set-uid, set-gid, capabilities",
        ((_path(path, entry), _description(entry), " ".join(can)) for path, entry, can in found.privileged),
    )
    yield from _section("writable by anybody", ((_path(p, entry), _description(entry)) for p, entry in found.writable))
    least = found.directories["/"] * SHARE
    large = ((name, size(count)) for name, count in found.directories.items() if name != "/" and count >= least)
    yield from _section("size by directory", large)


def _way_in(password: str, keys: bool) -> str:
    words = {"set": "password", "none": "no password asked", "locked": "" if keys else "locked"}
    return ", ".join(word for word in (words[password], "SSH key" if keys else "") if word)


def _section(title: str, rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    lines = columns([tuple(plain(cell) for cell in row) for row in rows])
    if lines:
        yield "  " + style(title, dim=True)
        yield from ("    " + line for line in lines)
