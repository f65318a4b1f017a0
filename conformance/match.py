"""Comparing what came with what a case expects.

A pattern is a value as TOML has it. Numbers are compared as 64-bit values, however they are written: 500, -1, "0x1f4". Besides:

* ``"*"``: anything;
* ``"$name"``: the value that was bound to that name before; ``"$name+0x10"`` and ``"$name-1"``: that number, moved;
* ``{ bind = "name" }``: anything, and bind it;
* ``{ in = [pattern, …] }``: one of these; ``{ all = [pattern, …] }``: every one of these; ``{ not = pattern }``: not this;
* ``{ at_least = n }``, ``{ at_most = n }``: a number within that bound (unsigned);
* ``{ mask = "0xff", value = "0x12" }``: equal in these bits;
* a list: as many elements, each matching; a table: every field that is named here matches.
"""

import re
from collections.abc import Callable
from typing import Final

_REFERENCE: Final = re.compile(r"\$(?P<name>[a-z][a-z0-9_.]*)(?P<offset>[+-](?:0x[0-9a-f]+|[0-9]+))?")
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
    """Return a value of a case with "$name", perhaps with an offset, replaced. Raises PatternError."""
    if not isinstance(value, str) or not value.startswith("$"):
        return value
    reference = _REFERENCE.fullmatch(value)
    if reference is None or reference["name"] not in bindings:
        raise PatternError(f"{value} is not bound")
    bound = bindings[reference["name"]]
    if reference["offset"] is None:
        return bound
    base = number(bound)
    if base is None:
        raise PatternError(f"{value}: {bound!r} is not a number")
    return f"{(base + int(reference['offset'], 0)) & _U64:#x}"


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
    if len(keys) == 1:
        name, argument = next(iter(pattern.items()))
        if name in _MATCHERS:
            return _MATCHERS[name](argument, value, bindings, where)
    if keys == {"mask", "value"}:
        return _masked(pattern, value, bindings, where)
    if not isinstance(value, dict):
        return f"{where}: expected a table, got {value!r}"
    for key, inner in pattern.items():
        if key not in value:
            return f"{where}.{key}: missing"
        text = mismatch(inner, value[key], bindings, f"{where}.{key}")
        if text:
            return text
    return None


def _masked(pattern: dict[str, object], value: object, bindings: Bindings, where: str) -> str | None:
    mask, wanted, got = number(pattern["mask"]), number(resolve(pattern["value"], bindings)), number(value)
    if mask is None or wanted is None:
        raise PatternError(f"{where}: mask and value must be numbers")
    if got is not None and got & mask == wanted & mask:
        return None
    return f"{where}: expected {wanted:#x} under mask {mask:#x}, got {value!r}"


def _bind(name: object, value: object, bindings: Bindings, _where: str) -> str | None:
    bindings[str(name)] = value
    return None


def _choices(choices: object, where: str) -> list[object]:
    if not isinstance(choices, list) or not choices:
        raise PatternError(f"{where}: in and all must be lists of patterns")
    return choices


def _in(choices: object, value: object, bindings: Bindings, where: str) -> str | None:
    if any(mismatch(choice, value, bindings, where) is None for choice in _choices(choices, where)):
        return None
    return f"{where}: expected one of {choices!r}, got {value!r}"


def _all(choices: object, value: object, bindings: Bindings, where: str) -> str | None:
    found = (mismatch(choice, value, bindings, where) for choice in _choices(choices, where))
    return next((text for text in found if text), None)


def _not(pattern: object, value: object, bindings: Bindings, where: str) -> str | None:
    if mismatch(pattern, value, dict(bindings), where):
        return None
    return f"{where}: expected anything but {resolve(pattern, bindings)!r}"


def _at_least(bound: object, value: object, bindings: Bindings, where: str) -> str | None:
    low, got = number(resolve(bound, bindings)), number(value)
    if low is None:
        raise PatternError(f"{where}: at_least must be a number")
    return None if got is not None and got >= low else f"{where}: expected at least {low:#x}, got {value!r}"


def _at_most(bound: object, value: object, bindings: Bindings, where: str) -> str | None:
    high, got = number(resolve(bound, bindings)), number(value)
    if high is None:
        raise PatternError(f"{where}: at_most must be a number")
    return None if got is not None and got <= high else f"{where}: expected at most {high:#x}, got {value!r}"


_Matcher = Callable[[object, object, Bindings, str], str | None]

_MATCHERS: Final[dict[str, _Matcher]] = {
    "bind": _bind,
    "in": _in,
    "all": _all,
    "not": _not,
    "at_least": _at_least,
    "at_most": _at_most,
}
