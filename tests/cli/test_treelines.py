from __future__ import annotations

from sfvm.cli.treelines import DEEP, branches


def draw(nodes):
    return [margin + name for name, margin, _ in branches(nodes)]


def test_branches():
    nodes = [("a", None), ("b", "a"), ("c", "b"), ("d", "a"), ("other", None)]
    assert draw(nodes) == ["a", "├─ b", "│  └─ c", "└─ d", "other"]


def test_a_node_whose_parent_is_not_shown_is_a_root():
    assert draw([("b", "a"), ("c", "b")]) == ["b", "└─ c"]


def test_further_lines_keep_the_guides():
    below = {name: rest for name, _, rest in branches([("a", None), ("b", "a"), ("c", "a")])}
    assert below == {"a": "", "b": "│  ", "c": "   "}


def test_a_long_chain_stays_narrow():
    count = 3000
    lines = draw([(f"n{i}", f"n{i - 1}" if i else None) for i in range(count)])
    assert len(lines) == count
    assert lines[-1].endswith(f"↳  n{count - 1}")
    assert max(map(len, lines)) < DEEP + 20
