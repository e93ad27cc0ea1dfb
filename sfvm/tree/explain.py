"""Why a node must be built again: the exact inputs that differ from those of its last build."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sfvm.tree.node import Node, canonical
from sfvm.verbs import JSON

Inputs = Mapping[str, JSON]
Load = Callable[[str], Inputs | None]
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MISSING = object()
_DIFF_LINES = 20


@dataclass(frozen=True)
class Difference:
    """*where* names the input (``step 3 run (web.xml:12:5): script``), *before* and *after* are its values (None:
    absent), *text* says it all in a line, then a short diff where the values are text of several lines. *inherited*:
    it is an ancestor's."""

    where: str
    before: JSON
    after: JSON
    text: str
    inherited: bool = False


def explain(node: Node, before: Inputs | None, load: Load | None = None) -> tuple[Difference, ...]:
    """What differs between *node*'s inputs and *before*, those of an earlier build; nothing when it is all the same.

    Where the parent's key differs, *load* gives the inputs recorded under the parent's earlier key (None: forgotten),
    and so on upwards, nearest ancestor last. Without *load* the changed parent itself is the answer.
    """
    if before is None:
        return (Difference(node.name, None, dict(node.inputs), "never built"),)
    found: list[Difference] = []
    prefix = ""
    current, earlier = node, before
    while True:
        inputs = json.loads(canonical(current.inputs))  # as *before* was written: tuples are lists
        own = _own(inputs, earlier, prefix)
        found[:0] = [replace(difference, inherited=bool(prefix)) for difference in own]
        was, now = earlier.get("parent"), inputs["parent"]
        if not was or not now or was["key"] == now["key"]:
            break
        assert current.parent is not None  # inputs name it
        if was["name"] != now["name"]:
            break  # said by _own
        recorded = load(was["key"]) if load else None
        if recorded is None:
            kind = "ancestor" if prefix else "parent"
            text = f"{kind} {now['name']}: changed"
            found.insert(0, Difference(f"{kind} {now['name']}", was["key"], now["key"], text, True))
            break
        current, earlier = current.parent, recorded
        prefix = f"ancestor {current.name}: "
    return tuple(found)


def _own(now: Inputs, was: Inputs, prefix: str) -> list[Difference]:
    """The differences of one node's own inputs, ancestors left out."""
    found: list[Difference] = []
    if was.get("version") != now["version"]:
        found.append(_change(f"{prefix}sfvm's way to make keys", was.get("version"), now["version"]))
    if (was.get("parent") or {}).get("name") != (now["parent"] or {}).get("name"):
        found.append(
            _change(f"{prefix}parent", (was.get("parent") or {}).get("name"), (now["parent"] or {}).get("name"))
        )
    found += _values(f"{prefix}disk", was.get("disk"), now["disk"])
    found += _verb(f"{prefix}base", was.get("base"), now["base"])
    found += _pins(was.get("pinned", {}), now.get("pinned", {}), prefix)
    found += _steps(was.get("steps", []), now["steps"], prefix)
    arguments = [
        _change(f"{prefix}param {name}", *values)
        for name, *values in _pairs(was.get("arguments", {}), now["arguments"])
    ]
    # A param that changes nothing else does not change the key; where something else changed, it may be the cause.
    return arguments + found if found else []


def _pins(was: Mapping[str, str], now: Mapping[str, str], prefix: str) -> Iterator[Difference]:
    for name, before, after in _pairs(was, now):
        if name == "refreshed":
            text = f"refreshed on purpose, {after}" if after else f"the refresh of {before} does not count any more"
        else:
            text = "built from another lock" if before and after else "locked" if after else "not locked any more"
        yield Difference(f"{prefix}{name}", before, after, f"{prefix}{text}")


def _steps(was: Sequence[Inputs], now: Sequence[Inputs], prefix: str) -> Iterator[Difference]:
    before, after = [_meaning(step) for step in was], [_meaning(step) for step in now]
    gone: list[int] = []
    come: list[int] = []
    changed: list[tuple[int, int]] = []
    for operation, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if operation == "equal":
            continue
        unpaired = list(range(j1, j2))
        for i in range(i1, i2):
            partner = _partner(was[i], [(j, now[j]) for j in unpaired], after, before[i])
            if partner is None:
                gone.append(i)
            else:
                unpaired.remove(partner)
                changed.append((i, partner))
        come += unpaired
    for i in list(gone):
        moved = next((j for j in come if after[j] == before[i]), None)
        if moved is not None:
            gone.remove(i)
            come.remove(moved)
            yield Difference(
                f"{prefix}step {moved + 1}",
                i + 1,
                moved + 1,
                f"{prefix}{_name(moved, now[moved])}: step moved from {i + 1} to {moved + 1}",
            )
    for i in gone:
        text = f"{prefix}{_name(i, was[i])}: step removed: {was[i].get('title', '')}"
        yield Difference(f"{prefix}step {i + 1}", was[i], None, text)
    for j in sorted([*come, *(pair[1] for pair in changed)]):
        if j in come:
            text = f"{prefix}{_name(j, now[j])}: step added: {now[j].get('title', '')}"
            yield Difference(f"{prefix}step {j + 1}", None, now[j], text)
        else:
            i = next(pair[0] for pair in changed if pair[1] == j)
            yield from _verb(f"{prefix}{_name(j, now[j])}", was[i], now[j])


def _partner(was: Inputs, candidates: Sequence[tuple[int, Inputs]], after: Sequence[str], gone: str) -> int | None:
    """Which of the new steps is *was*, changed: of the same element, best the one that looks most alike. A step that
    is found unchanged elsewhere was moved: it has none."""
    if gone in after:
        return None
    same = [(j, step) for j, step in candidates if step["element"] == was["element"]]
    if len(same) < 2:
        return same[0][0] if same else None
    return max(same, key=lambda item: (_likeness(was["inputs"], item[1]["inputs"]), -item[0]))[0]


def _likeness(one: Inputs, other: Inputs) -> float:
    before, after = (canonical(inputs).decode()[:4096] for inputs in (one, other))
    # Not ratio(): every step is compared with every other, and that takes quadratic time for each pair.
    return difflib.SequenceMatcher(None, before, after, autojunk=False).quick_ratio()


def _verb(where: str, was: Inputs | None, now: Inputs | None) -> Iterator[Difference]:
    if was is None or now is None:
        if was is not now:
            yield _change(where, was and was["element"], now and now["element"])
    elif was["element"] != now["element"]:
        yield _change(where, was["element"], now["element"])
    else:
        if was["version"] != now["version"]:
            yield _change(f"{where}: sfvm's implementation, version", was["version"], now["version"])
        if was.get("architecture") != now.get("architecture"):
            yield _change(f"{where}: architecture", was.get("architecture"), now.get("architecture"))
        yield from _values(where, was["inputs"], now["inputs"], ": ")


def _values(where: str, was: JSON, now: JSON, separator: str = " ") -> Iterator[Difference]:
    """The innermost values that differ; an entry of a copied tree (see :data:`sfvm.digest.Tree`) counts as one."""
    if was == now:
        return
    if not isinstance(was, Mapping) or not isinstance(now, Mapping) or _is_entry(was) or _is_entry(now):
        yield _change(where, was, now)
        return
    for name, before, after in _pairs(was, now):
        if _is_tree(before) and _is_tree(after):
            for path, *entries in _pairs(before, after):
                yield _change(f"{where}{separator}file {path}", *entries)
        else:
            yield from _values(f"{where}{separator}{name}", before, after)


def _is_tree(value: JSON) -> bool:
    return isinstance(value, Mapping) and all(_is_entry(entry) for entry in value.values())


def _is_entry(value: JSON) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"mode", "sha256", "target"}


def _pairs(was: Mapping[str, JSON], now: Mapping[str, JSON]) -> Iterator[tuple[str, JSON, JSON]]:
    for name in sorted({*was, *now}):
        if was.get(name, _MISSING) != now.get(name, _MISSING):
            yield name, was.get(name), now.get(name)


def _change(where: str, was: JSON, now: JSON) -> Difference:
    if was is None:
        text = f"{where}: added" if _opaque(now) else f"{where}: added {_show(now)}"
    elif now is None:
        text = f"{where}: removed" if _opaque(was) else f"{where}: was {_show(was)}, now not given"
    elif _opaque(was) and _opaque(now):
        text = f"{where}: {_aspect(was, now)} changed"
    elif isinstance(was, str) and isinstance(now, str) and ("\n" in was.strip() or "\n" in now.strip()):
        text = "\n".join([f"{where} changed", *_diff(was, now)])
    else:
        text = f"{where}: {_show(was)} → {_show(now)}"
    return Difference(where, was, now, text)


def _opaque(value: JSON) -> bool:
    """Whether the value itself tells a person nothing."""
    return isinstance(value, Mapping) or (isinstance(value, str) and _DIGEST.fullmatch(value) is not None)


def _aspect(was: JSON, now: JSON) -> str:
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        names = {"sha256": "content"}
        return " and ".join(names.get(name, name) for name, *_ in _pairs(was, now))
    return "content"


def _show(value: JSON) -> str:
    text = " ".join(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
    shown = repr(text) if isinstance(text, str) else canonical(text).decode()
    return shown if len(shown) <= 200 else shown[:200] + "…"


def _diff(was: str, now: str) -> list[str]:
    lines = list(difflib.unified_diff(was.splitlines(), now.splitlines(), lineterm="", n=1))[2:]
    more = [f"  … {len(lines) - _DIFF_LINES} more lines"] if len(lines) > _DIFF_LINES else []
    return [f"  {line}" for line in lines[:_DIFF_LINES]] + more


def _name(index: int, step: Inputs) -> str:
    return f"step {index + 1} {step['element']} ({step.get('place', '?')})"


def _meaning(step: Inputs) -> str:
    return canonical({name: step[name] for name in ("element", "version", "inputs")}).decode()
