"""The guest's account databases (passwd(5), group(5), shadow(5)), read and changed as text: for guests without tools
of their own, and to look up what they have."""

from __future__ import annotations

from collections.abc import Sequence

from sfvm.errors import StepError
from sfvm.guest import Guest
from sfvm.steps._common import status

PASSWD, GROUP, SHADOW = "/etc/passwd", "/etc/group", "/etc/shadow"
FIRST, LAST = 1000, 59999
"""The numbers of people's accounts; those of the system lie below, and are given from the highest down (as
login.defs(5) of most distributions has it)."""

Records = list[list[str]]


def records(guest: Guest, path: str) -> Records:
    """The lines of a database as fields; none when there is no such file."""
    if not guest.exists(path):
        return []
    text = guest.read(path).decode("utf-8", errors="surrogateescape")
    return [line.split(":") for line in text.split("\n") if line]


def save(guest: Guest, path: str, found: Records) -> None:
    """Write a database; mode and owner of the file stay."""
    width = {PASSWD: 7, GROUP: 4, SHADOW: 9}[path]
    content = "".join(":".join(fields[:width]) + "\n" for fields in found).encode("utf-8", errors="surrogateescape")
    if guest.exists(path):
        real, mode, owner = status(guest, path)
        guest.write(real, content, mode=mode, owner=owner)
    else:
        guest.write(path, content, mode=0o600 if path == SHADOW else 0o644)


def find(found: Records, name: str) -> list[str] | None:
    """The record of *name*; fields that its line lacks are added to it, empty."""
    known = next((fields for fields in found if fields[0] == name), None)
    if known is not None:
        known += [""] * (9 - len(known))
    return known


def free(found: Records, *, system: bool) -> str:
    """A number that no record of *found* has."""
    used = {fields[2] for fields in found if len(fields) > 2}
    numbers = range(FIRST - 1, 99, -1) if system else range(FIRST, LAST + 1)
    return next(str(number) for number in numbers if str(number) not in used)


def add_group(guest: Guest, name: str, gid: str | None, *, system: bool) -> str:
    """Make a group unless it is there; return its number.

    :raises StepError: another group has the number
    """
    groups = records(guest, GROUP)
    known = find(groups, name)
    if known is not None:
        return known[2]
    if gid is not None and any(fields[2:3] == [gid] for fields in groups):
        raise StepError(f"the guest has a group with the number {gid} already", hint="choose another gid")
    number = gid or free(groups, system=system)
    save(guest, GROUP, [*groups, [name, "x", number, ""]])
    return number


def add_user(
    guest: Guest, name: str, uid: str | None, *, home: str | None, shell: str | None, comment: str | None, system: bool
) -> None:
    """Make a user with a group of its own and, unless *system*, a home directory; or change one that is there.

    :raises StepError: another user has the number
    """
    users = records(guest, PASSWD)
    known = find(users, name)
    if uid is not None and any(fields[2:3] == [uid] and fields[0] != name for fields in users):
        raise StepError(f"the guest has a user with the number {uid} already", hint="choose another uid")
    if known is not None:
        for at, value in ((2, uid), (4, comment), (5, home), (6, shell)):
            known[at] = known[at] if value is None else value
        save(guest, PASSWD, users)
        return
    number = uid or free(users, system=system)
    taken = any(fields[2:3] == [number] for fields in records(guest, GROUP))
    group = add_group(guest, name, None if taken else number, system=system)
    home = home or f"/home/{name}"
    save(guest, PASSWD, [*users, [name, "x", number, group, comment or "", home, shell or "/bin/sh"]])
    save(guest, SHADOW, [*records(guest, SHADOW), [name, "*", *[""] * 7]])
    if not system:
        guest.directory(home, owner=f"{number}:{group}")


def join_groups(guest: Guest, name: str, wanted: Sequence[str]) -> None:
    """Make the user *name* a member of groups.

    :raises StepError: the guest has no such group
    """
    groups = records(guest, GROUP)
    for group in wanted:
        known = find(groups, group)
        if known is None:
            raise StepError(f"the guest has no group {group}", hint=f'make it first: <group name="{group}"/>')
        members = [member for member in known[3].split(",") if member]
        known[3] = ",".join([*members, *([] if name in members else [name])])
    save(guest, GROUP, groups)


def set_password(guest: Guest, name: str, password: str) -> None:
    """Set the hash of the user's password."""
    shadow = records(guest, SHADOW)
    known = find(shadow, name)
    if known is None:
        shadow.append([name, password, *[""] * 7])
    else:
        known[1] = password
    save(guest, SHADOW, shadow)


def add_key(guest: Guest, name: str, key: str) -> None:
    """Let who has the *key* log in as *name* by SSH."""
    known = find(records(guest, PASSWD), name)
    if known is None:
        raise StepError(f"the guest has no user {name}", why="its tools did not make one", hint="look at the log")
    owner, directory = f"{known[2]}:{known[3]}", f"{known[5].rstrip('/')}/.ssh"
    path = f"{directory}/authorized_keys"
    before = guest.read(path).decode("utf-8", errors="surrogateescape").split("\n") if guest.exists(path) else []
    keys = [line for line in before if line]
    content = "".join(f"{line}\n" for line in [*keys, *([] if key in keys else [key])])
    guest.directory(directory, mode=0o700, owner=owner)
    guest.write(path, content.encode("utf-8", errors="surrogateescape"), mode=0o600, owner=owner)
