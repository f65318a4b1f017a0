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
        ({"not": 5}, "0x6"),
        ({"not": {"in": [1, 2]}}, 3),
        ({"at_least": 5}, "0x5"),
        ({"at_most": "0x5"}, 5),
        ({"all": [{"at_least": 2}, {"not": 3}, {"at_most": 4}]}, 4),
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
        ({"not": 5}, "0x5", "anything but 5"),
        ({"at_least": 5}, "0x4", "at least 0x5"),
        ({"at_most": 5}, 6, "at most 0x5"),
        ({"at_most": 5}, "six", "at most 0x5"),
        ({"at_least": 0}, None, "at least 0x0"),
        ({"all": [{"at_least": 2}, {"not": 3}]}, 3, "anything but 3"),
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


def test_offsets_of_what_is_bound() -> None:
    """A bound number can be moved, with wrap at 64 bits; a bound text cannot."""
    bindings: Bindings = {"here": "0x10", "context.c0": 7, "text": "abc"}
    assert mismatch("$here+0x8", "0x18", bindings) is None
    assert mismatch("$here-17", -1, bindings) is None
    assert mismatch({"at_most": "$context.c0+1"}, 8, bindings) is None
    assert mismatch("$here+1", "0x10", bindings) is not None
    for pattern in ("$nobody+1", "$text+1", "$here+", "$here*2"):
        with pytest.raises(PatternError):
            mismatch(pattern, 1, bindings)


def test_not_binds_nothing() -> None:
    bindings: Bindings = {}
    assert mismatch({"not": {"all": [{"bind": "x"}, 1]}}, 2, bindings) is None
    assert bindings == {}


@pytest.mark.parametrize("pattern", [{"in": 5}, {"in": []}, {"all": "x"}, {"at_least": "x"}, {"at_most": []}])
def test_wrong_matchers(pattern: object) -> None:
    with pytest.raises(PatternError):
        mismatch(pattern, 1, {})
