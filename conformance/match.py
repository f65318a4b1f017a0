"""Comparing what came with what a case expects.

A pattern is a value as TOML has it. Numbers are compared as 64-bit values, however they are written: 500, -1, "0x1f4". Besides:

* ``"*"``: anything;
* ``"$name"``: the value that was bound to that name before;
* ``{ bind = "name" }``: anything, and bind it;
* ``{ in = [pattern, …] }``: one of these;
* ``{ mask = "0xff", value = "0x12" }``: equal in these bits;
* a list: as many elements, each matching; a table: every field that is named here matches.
"""

from typing import Final

_U64: Final = (1 << 64) - 1

Bindings = dict[str, object]


class PatternError(Exception):
    """The case is wrong: no such pattern, or a name that is not bound."""


def number(value: object) -> int | None:
    """Return a number as a 64-bit value, or None when it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value & _U64
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16) & _U64
        except ValueError:
            return None
    return None


def word(value: object) -> str:
    """Write a number of a case as the protocol does. Raises PatternError."""
    found = number(value)
    if found is None:
        raise PatternError(f"{value!r} is not a number")
    return f"{found:#x}"


def resolve(value: object, bindings: Bindings) -> object:
    """Return a value of a case with "$name" replaced. Raises PatternError."""
    if isinstance(value, str) and value.startswith("$"):
        if value[1:] not in bindings:
            raise PatternError(f"{value} is not bound")
        return bindings[value[1:]]
    return value


def mismatch(pattern: object, value: object, bindings: Bindings, where: str = "") -> str | None:
    """Return what differs, in words, or None. Binds names as it goes. Raises PatternError."""
    pattern = resolve(pattern, bindings)
    if pattern == "*":
        return None
    if isinstance(pattern, dict):
        return _special(pattern, value, bindings, where)
    if isinstance(pattern, list):
        if not isinstance(value, list) or len(value) != len(pattern):
            return f"{where}: expected {len(pattern)} elements, got {value!r}"
        found = (mismatch(p, v, bindings, f"{where}[{i}]") for i, (p, v) in enumerate(zip(pattern, value, strict=True)))
        return next((text for text in found if text), None)
    wanted, got = number(pattern), number(value)
    if wanted is not None and got is not None:
        return None if wanted == got else f"{where}: expected {wanted:#x}, got {got:#x}"
    return (
        None if type(pattern) is type(value) and pattern == value else f"{where}: expected {pattern!r}, got {value!r}"
    )


def _special(pattern: dict[str, object], value: object, bindings: Bindings, where: str) -> str | None:
    """Match a table: a matcher if it has a matcher's fields, else field by field."""
    keys = pattern.keys()
    if keys == {"bind"}:
        bindings[str(pattern["bind"])] = value
        return None
    if keys == {"in"}:
        choices = pattern["in"]
        if not isinstance(choices, list):
            raise PatternError(f"{where}: in must be a list")
        if any(mismatch(choice, value, bindings, where) is None for choice in choices):
            return None
        return f"{where}: expected one of {choices!r}, got {value!r}"
    if keys == {"mask", "value"}:
        mask, wanted, got = number(pattern["mask"]), number(resolve(pattern["value"], bindings)), number(value)
        if mask is None or wanted is None:
            raise PatternError(f"{where}: mask and value must be numbers")
        if got is not None and got & mask == wanted & mask:
            return None
        return f"{where}: expected {wanted:#x} under mask {mask:#x}, got {value!r}"
    if not isinstance(value, dict):
        return f"{where}: expected a table, got {value!r}"
    for key, inner in pattern.items():
        if key not in value:
            return f"{where}.{key}: missing"
        text = mismatch(inner, value[key], bindings, f"{where}.{key}")
        if text:
            return text
    return None
