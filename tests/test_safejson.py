"""What others wrote is read, or is a ValueError."""

import json

import pytest

from sfvm import safejson

DEEP = "[" * 200_000


@pytest.mark.parametrize("value", [None, True, [1, -2.5, {"é": "\U0001f600\ud7ff"}], 1 << 1000, 1.7e308, "\\ud800"])
def test_what_json_writes_is_read(value):
    for ascii_only in (True, False):
        text = json.dumps(value, ensure_ascii=ascii_only)
        assert safejson.loads(text) == safejson.loads(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1}", DEEP, '{"a":' * 200_000, f'"\\u0041{DEEP}', "NaN", "[Infinity]", "-Infinity", "1e999", "-1e999",
        str(1 << 1024), "9" * 5000, "0." + "9" * 5000 + "e400",
        r'"\ud800"', r'{"\udcff": 1}', b'"\xff"', b"\xff\xfe1\x00",
    ],
)  # fmt: skip
def test_all_else_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        safejson.loads(text)
