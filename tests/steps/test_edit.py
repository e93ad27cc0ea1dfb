"""What ``edit`` makes of a text, and that it stays in the guest."""

import pytest

from sfvm.errors import StepError
from tests.verbs import Directory, Maker


def edited(make: Maker, guest: Directory, before: str, *changes: str) -> str:
    guest.write("/etc/x.conf", before.encode())
    make(f'<edit path="/etc/x.conf">{"".join(changes)}</edit>').run(guest)
    return guest.read("/etc/x.conf").decode()


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        ('<replace match="^Port .*" with="Port 22"/>', "Port 1\nPort 2\n", "Port 22\nPort 22\n"),
        ('<replace match="^Port .*" with="Port 22" count="1"/>', "Port 1\nPort 2\n", "Port 22\nPort 2\n"),
        (r'<replace match="(a)(b)" with="\2\1"/>', "ab", "ba"),
        ('<replace match="x" with="y" required="no"/>', "a\n", "a\n"),
        ('<line text="b"/>', "a\n", "a\nb\n"),
        ('<line text="b"/>', "a", "a\nb\n"),
        ('<line text="b"/>', "", "b\n"),
        ('<line text="b"/>', "b\na\n", "b\na\n"),
        ('<line text="b" after="^a"/>', "a1\na2\nc\n", "a1\nb\na2\nc\n"),
        ('<line text="b" after="^z"/>', "a\n", "a\nb\n"),
        ('<line text="b" state="absent"/>', "a\nb\nbb\nb\n", "a\nbb\n"),
        ('<set name="A" value="2"/>', "A=1\nB=1\n", "A=2\nB=1\n"),
        ('<set name="A" value="2"/>', "B=1\n", "B=1\nA=2\n"),
        ('<set name="A" value="2"/>', "AB=1\n", "AB=1\nA=2\n"),
        ('<set name="A" value="2"/>', "#A=0\nB=1\n", "A=2\nB=1\n"),
        ('<set name="A" value="2"/>', "#A=0\nA=1\nB=1\nA = 3\n", "#A=0\nA=2\nB=1\n"),
        ('<set name="Port" value="22" separator=" "/>', "# Port is what\n#Port 1\n", "# Port is what\nPort 22\n"),
        ('<set name="Port" value="22" separator=" "/>', "Port\t1\nPorts 2\n", "Port 22\nPorts 2\n"),
        ('<set name="a.b" value="1" separator=" = "/>', "axb = 0\n", "axb = 0\na.b = 1\n"),
    ],
)
def test_changes(make: Maker, guest: Directory, change: str, before: str, after: str) -> None:
    assert edited(make, guest, before, change) == after


def test_only_line_feeds_end_lines(make: Maker, guest: Directory) -> None:
    """As they do for the guest's programs: a form feed or a carriage return belongs to its line."""
    before = "a\r\nb\x0cc\u2028d\n"
    assert edited(make, guest, before, '<line text="e"/>', '<set name="A" value="1"/>') == before + "e\nA=1\n"


def test_bytes_that_are_no_text_stay(make: Maker, guest: Directory) -> None:
    guest.write("/x", b"\xff\xfe\nA=1\n")
    make('<edit path="/x"><set name="A" value="2"/></edit>').run(guest)
    assert guest.read("/x") == b"\xff\xfe\nA=2\n"


def test_changes_are_made_in_order(make: Maker, guest: Directory) -> None:
    assert edited(make, guest, "a\n", '<replace match="a" with="b"/>', '<replace match="b" with="c"/>') == "c\n"


def test_mode_and_owner_stay(make: Maker, guest: Directory) -> None:
    guest.write("/x", b"A=1\n", mode=0o4750)
    status = guest.at("/x").stat()
    make('<edit path="/x"><set name="A" value="2"/></edit>').run(guest)
    assert guest.at("/x").stat().st_mode & 0o7777 == 0o4750
    assert guest.owners["/x"] == f"{status.st_uid}:{status.st_gid}"


def test_links_are_followed_in_the_guest(make: Maker, guest: Directory) -> None:
    """An absolute symlink begins at the guest's root; the file it leads to is changed, and the link stays."""
    guest.write("/usr/lib/x.conf", b"A=1\n", mode=0o640)
    guest.directory("/etc/deep")
    guest.symlink("/etc/x.conf", "/etc/deep/../../absolute/lib/x.conf")
    guest.symlink("/absolute", "/usr")
    make('<edit path="/etc/x.conf"><set name="A" value="2"/></edit>').run(guest)
    assert guest.at("/etc/x.conf").is_symlink()
    assert guest.read("/usr/lib/x.conf") == b"A=2\n"
    assert guest.at("/usr/lib/x.conf").stat().st_mode & 0o7777 == 0o640


def test_what_does_not_match_is_an_error_at_its_change(make: Maker, guest: Directory) -> None:
    with pytest.raises(StepError, match="nothing matches 'x'") as caught:
        edited(make, guest, "a\n", '\n<replace match="x" with="y"/>')
    assert caught.value.place is not None
    assert caught.value.place.line == 3


def test_a_missing_file_is_an_error(make: Maker, guest: Directory) -> None:
    with pytest.raises(StepError, match="the guest has no /nowhere"):
        make('<edit path="/nowhere"><line text="a"/></edit>').run(guest)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ('<replace match="(" with=""/>', "match is no regular expression"),
        ('<line text="a" after="["/>', "after is no regular expression"),
        ('<replace match="a{4294967296}" with=""/>', "match is no regular expression"),
        (f'<replace match="{"(" * 9000 + ")" * 9000}" with=""/>', "match is no regular expression"),
        (r'<replace match="a" with="\1"/>', "does not fit match"),
        ('<replace match="a" with="b" count="0"/>', "count must be 1 or more"),
    ],
)
def test_refused(make: Maker, change: str, what: str) -> None:
    assert what in make.refused(f'<edit path="/x">{change}</edit>').what


def test_inputs(make: Maker) -> None:
    step = make('<edit path="/x"><set name="A" value="2"/><line text="b"/></edit>')
    assert step.inputs() == {"path": "/x", "changes": [["set", {"name": "A", "value": "2"}], ["line", {"text": "b"}]]}
    assert step.title() == "edit /x"
