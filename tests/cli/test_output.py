from __future__ import annotations

import pytest

from sfvm.cli.output import columns, duration, plural, size


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"),
     (200, "3 min 20 s"), (3599.6, "1 h 00 min"), (3845, "1 h 04 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1536, "1.5 KiB"), (120 << 20, "120 MiB"),
     (1300 << 20, "1.3 GiB"), (3 << 40, "3.0 TiB")],
)  # fmt: skip
def test_sizes(count, text):
    assert size(count) == text


def test_columns_align_by_what_is_seen():
    assert columns([("\x1b[1mab\x1b[0m", "x", "1"), ("abcd", "", "2")]) == ["\x1b[1mab\x1b[0m    x  1", "abcd     2"]
    assert columns([]) == []


def test_plurals():
    assert [plural(n, "node") for n in (0, 1, 2)] == ["0 nodes", "1 node", "2 nodes"]
