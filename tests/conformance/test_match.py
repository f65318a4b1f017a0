"""Patterns of cases."""

import re

import pytest

from conformance.match import Bindings, PatternError, mismatch, number, word


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("*", {"any": 1}),
        (500, "0x1f4"),
        ("0x1F4", 500),
        (-1, "0xffffffffffffffff"),
        ("r", "r"),
        (True, True),
        ([1, "*", 3], ["0x1", "x", "0x3"]),
        ({"kind": "fault"}, {"kind": "fault", "more": 1}),
        ({"in": [1, 2]}, "0x2"),
        ({"mask": "0xff", "value": "0x12"}, "0x3412"),
        ({"a": {"b": {"in": ["x", "*"]}}}, {"a": {"b": 9}}),
    ],
)
def test_matches(pattern: object, value: object) -> None:
    assert mismatch(pattern, value, {}) is None


@pytest.mark.parametrize(
    ("pattern", "value", "text"),
    [
        (500, "0x1f5", "expected 0x1f4, got 0x1f5"),
        ("r", "w", "expected 'r', got 'w'"),
        (True, 1, "expected True"),
        (1, True, "expected 1"),
        ("0x1", "one", "expected '0x1'"),
        ([1, 2], [1], "expected 2 elements"),
        ([1, 2], [1, 3], r"\[1\]: expected 0x2"),
        ({"kind": "fault"}, {}, ".kind: missing"),
        ({"kind": "fault"}, "fault", "expected a table"),
        ({"in": [1, 2]}, 3, "expected one of"),
        ({"mask": "0xff", "value": "0x12"}, "0x13", "under mask"),
        ({"mask": "0xff", "value": "0x12"}, "text", "under mask"),
    ],
)
def test_mismatches_are_told(pattern: object, value: object, text: str) -> None:
    found = mismatch(pattern, value, {})
    assert found is not None
    assert re.search(text, found), found


def test_bind() -> None:
    bindings: Bindings = {}
    assert mismatch({"ip": {"bind": "here"}}, {"ip": "0x10"}, bindings) is None
    assert mismatch({"ip": "$here"}, {"ip": 16}, bindings) is None
    assert mismatch({"ip": "$here"}, {"ip": 17}, bindings) is not None


@pytest.mark.parametrize("pattern", ["$nobody", {"in": 5}, {"mask": "x", "value": 1}])
def test_wrong_patterns(pattern: object) -> None:
    with pytest.raises(PatternError):
        mismatch(pattern, 1, {})


def test_numbers() -> None:
    assert [number(x) for x in (5, "0x10", -1, "10", "0xg", True, None)] == [5, 16, 2**64 - 1, None, None, None, None]
    assert word(-1) == "0xffffffffffffffff"
    with pytest.raises(PatternError):
        word("ten")
