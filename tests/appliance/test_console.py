"""What is kept of a console."""

from hypothesis import given
from hypothesis import strategies as st

from sfvm.appliance.console import KEPT, SHOWN, Console


@given(st.lists(st.text("ab \r\n", max_size=5)))
def test_pieces_make_the_same_lines_as_the_whole(pieces: list[str]) -> None:
    console, whole = Console(), Console()
    for piece in pieces:
        console.feed(piece)
    whole.feed("".join(pieces))
    assert console.last_words() == whole.last_words()


def test_the_last_lines() -> None:
    console = Console()
    console.feed("".join(f"line {i}\r\n\r\n" for i in range(1000)) + "unfinished")
    assert len(console.lines) == KEPT
    assert console.last_words() == (*(f"line {i}" for i in range(1000 - SHOWN + 1, 1000)), "unfinished")


def test_a_panic_comes_first() -> None:
    console = Console()
    console.feed("boot\n[1.2] Kernel panic - not syncing: why\n" + "RAX: 0\n" * 50)
    words = console.last_words()
    assert words[0] == "[1.2] Kernel panic - not syncing: why"
    assert len(words) == SHOWN
