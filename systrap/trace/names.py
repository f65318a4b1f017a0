"""Numbers and the names people know them by: single values, sets of bits, and how both are written.

A table is written as text, ``"READ=1 WRITE=2"``, because a hundred of them must be read and checked by eye.
"""

from typing import Final

_MOST_REMEMBERED: Final = 4096


def table(prefix: str, text: str) -> dict[int, str]:
    """Return number → name for ``"NAME=number …"``; each name gets the prefix. Numbers may be hexadecimal or octal."""
    found: dict[int, str] = {}
    for word in text.split():
        name, _, number = word.partition("=")
        found[int(number, 0)] = prefix + name
    return found


def series(prefix: str, first: int, text: str) -> dict[int, str]:
    """Return number → name for names that count up from ``first``; "-" stands for a number without a name."""
    return {first + i: prefix + name for i, name in enumerate(text.split()) if name != "-"}


class Names:
    """Single values. What is not in the table is written as ``0x7 /* SEEK_??? */``."""

    __slots__ = ("_decimal", "_unknown", "names")

    def __init__(self, unknown: str, names: dict[int, str], decimal: bool = False) -> None:
        """``unknown``: the comment behind other numbers, which are written in hexadecimal, or decimal."""
        self.names = names
        self._unknown = unknown
        self._decimal = decimal

    def text(self, value: int) -> str:
        """Return the name of a value."""
        name = self.names.get(value)
        if name is not None:
            return name
        return f"{value if self._decimal else hex(value)} /* {self._unknown} */"


class Flags:
    """Sets of bits, in the order of the table: a name of several bits must stand before the names of its parts.

    ``mask`` is the part of the value that holds a number instead of bits (O_ACCMODE, the type of a mapping): its names
    are in ``low``.
    """

    __slots__ = ("_known", "_low", "_mask", "_unknown", "names")

    def __init__(self, unknown: str, names: dict[int, str], mask: int = 0, low: dict[int, str] | None = None) -> None:
        self.names = names
        self._unknown = unknown
        self._mask = mask
        self._low = low or {}
        self._known: dict[int, str] = {}

    def text(self, value: int) -> str:
        """Return the names of the bits, joined by "|"."""
        known = self._known.get(value)
        if known is None:
            # A guest chooses the values: it must not fill our memory with them.
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            known = self._known[value] = self._make(value)
        return known

    def _make(self, value: int) -> str:
        parts = []
        rest = value
        if self._low:
            number = value & self._mask
            rest &= ~self._mask
            parts.append(self._low.get(number, f"{number:#x}" if number or not rest else ""))
        for bits, name in self.names.items():
            if bits and rest & bits == bits:
                parts.append(name)
                rest &= ~bits
        parts = [part for part in parts if part]
        if rest:
            parts.append(hex(rest) if parts else f"{rest:#x} /* {self._unknown} */")
        return "|".join(parts) or self.names.get(0, "0")
