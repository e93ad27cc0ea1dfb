"""JSON that somebody else wrote, or that may be damaged: ``json.loads``, which has one way to fail."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(content: bytes | str) -> Any:
    """The value in *content*. Every number is, as a float, finite; every string can be written as UTF-8.

    :raises ValueError: it is no JSON, or nested too deeply, or has other numbers or strings
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8")
        found = _DECODER.decode(text)
        if "\\u" in text:  # the only way to half a surrogate pair
            json.dumps(found, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return found


def _integer(digits: str) -> int:
    _float(digits)
    return int(digits)


def _float(digits: str) -> float:
    if not math.isfinite(found := float(digits)):
        raise ValueError(f"{digits[:20]} is no finite number")
    return found


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=_float)
