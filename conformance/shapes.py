"""What JSON values of the protocol look like: shapes that check a value, describe themselves, and write their JSON Schema.

One table of messages (protocol.py) made of these serves the runner, which checks every answer, the reference in
docs/protocol.md, and the schemas for authors of drivers.
"""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

Table = dict[str, object]

MAX_DATA: Final = 4096
"""Bytes of memory in one message."""

_WORD: Final = re.compile(r"0x[0-9a-fA-F]{1,16}", re.ASCII)
_HEX: Final = re.compile(r"([0-9a-f]{2})*", re.ASCII)


class Shape(ABC):
    """A set of JSON values."""

    @abstractmethod
    def problem(self, value: object, where: str) -> str | None:
        """Return what is wrong with a value, in words, or None."""

    @abstractmethod
    def schema(self) -> Table:
        """Return the JSON Schema of these values."""

    @abstractmethod
    def text(self) -> str:
        """Return how people call these values, short."""


def _wrong(where: str, wanted: str, value: object) -> str:
    return f"{where} must be {wanted}, it is {value!r:.80}"


@dataclass(frozen=True)
class Word(Shape):
    """A 64-bit value as a string: JSON numbers lose them in half of the world's parsers."""

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        good = isinstance(value, str) and _WORD.fullmatch(value)
        return None if good else _wrong(where, 'a 64-bit value as a string ("0x2a")', value)

    def schema(self) -> Table:
        """See Shape."""
        return {"type": "string", "pattern": "^0x[0-9a-fA-F]{1,16}$"}

    def text(self) -> str:
        """See Shape."""
        return "word"


@dataclass(frozen=True)
class Integer(Shape):
    """A JSON number without a fraction; never true or false."""

    low: int = 0
    high: int = 1 << 53

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        good = isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high
        return None if good else _wrong(where, f"an integer from {self.low} to {self.high}", value)

    def schema(self) -> Table:
        """See Shape."""
        return {"type": "integer", "minimum": self.low, "maximum": self.high}

    def text(self) -> str:
        """See Shape."""
        bounded = (self.low, self.high) != (0, 1 << 53) and self.high < 1 << 31
        return f"integer, {self.low} to {self.high}" if bounded else "integer"


@dataclass(frozen=True)
class Text(Shape):
    """A string."""

    least: int = 0

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        good = isinstance(value, str) and len(value) >= self.least
        return None if good else _wrong(where, "a string", value)

    def schema(self) -> Table:
        """See Shape."""
        return {"type": "string", "minLength": self.least} if self.least else {"type": "string"}

    def text(self) -> str:
        """See Shape."""
        return "string"


@dataclass(frozen=True)
class Matching(Shape):
    """A string that matches a regular expression as a whole. ``name`` is what people call it."""

    name: str
    pattern: str

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        good = isinstance(value, str) and re.fullmatch(self.pattern, value, re.ASCII)
        return None if good else _wrong(where, self.name, value)

    def schema(self) -> Table:
        """See Shape."""
        return {"type": "string", "pattern": f"^{self.pattern}$"}

    def text(self) -> str:
        """See Shape."""
        return self.name


@dataclass(frozen=True)
class Choice(Shape):
    """One of some strings."""

    names: tuple[str, ...]

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        good = isinstance(value, str) and value in self.names
        return None if good else _wrong(where, f"one of {', '.join(self.names)}", value)

    def schema(self) -> Table:
        """See Shape."""
        return {"enum": list(self.names)}

    def text(self) -> str:
        """See Shape."""
        return " or ".join(f'"{name}"' for name in self.names)


@dataclass(frozen=True)
class Exactly(Shape):
    """One JSON value and no other."""

    value: bool | int

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        good = type(value) is type(self.value) and value == self.value
        return None if good else _wrong(where, self.text(), value)

    def schema(self) -> Table:
        """See Shape."""
        return {"const": self.value}

    def text(self) -> str:
        """See Shape."""
        return str(self.value).lower()


@dataclass(frozen=True)
class Hex(Shape):
    """Bytes in lower-case hex."""

    limit: int = MAX_DATA
    exact: int | None = None

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        good = isinstance(value, str) and _HEX.fullmatch(value) is not None and self._fits(len(value) // 2)
        return None if good else _wrong(where, f"{self.text()} in lower case", value)

    def _fits(self, size: int) -> bool:
        return size <= self.limit and self.exact in (None, size)

    def schema(self) -> Table:
        """See Shape."""
        digits = 2 * (self.exact if self.exact is not None else self.limit)
        least: Table = {"minLength": digits} if self.exact is not None else {}
        return {"type": "string", "pattern": "^([0-9a-f]{2})*$", "maxLength": digits, **least}

    def text(self) -> str:
        """See Shape."""
        return "bytes in hex" if self.exact is None else f"{self.exact} bytes in hex"


@dataclass(frozen=True)
class ListOf(Shape):
    """A list, of a given length or of any."""

    item: Shape
    exact: int | None = None

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        if not isinstance(value, list) or self.exact not in (None, len(value)):
            return _wrong(where, self.text(), value)
        found = (self.item.problem(item, f"{where}[{index}]") for index, item in enumerate(value))
        return next((text for text in found if text), None)

    def schema(self) -> Table:
        """See Shape."""
        sizes: Table = {} if self.exact is None else {"minItems": self.exact, "maxItems": self.exact}
        return {"type": "array", "items": self.item.schema(), **sizes}

    def text(self) -> str:
        """See Shape."""
        return f"list of {'' if self.exact is None else f'{self.exact} '}{self.item.text()}s"


@dataclass(frozen=True)
class ByName(Shape):
    """An object with any names, and values of one shape."""

    item: Shape

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        if not isinstance(value, dict):
            return _wrong(where, "an object", value)
        found = (self.item.problem(item, f"{where}.{name}") for name, item in value.items())
        return next((text for text in found if text), None)

    def schema(self) -> Table:
        """See Shape."""
        return {"type": "object", "additionalProperties": self.item.schema()}

    def text(self) -> str:
        """See Shape."""
        text = self.item.text()
        return f"{text if text.startswith('bytes') else f'{text}s'} by name"


@dataclass(frozen=True)
class Field:
    """A named value in an object. ``note`` is for the reference."""

    name: str
    shape: Shape
    note: str = ""
    required: bool = True


@dataclass(frozen=True)
class Record(Shape):
    """An object with known fields. ``closed``: and no others."""

    fields: tuple[Field, ...] = ()
    closed: bool = False

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        if not isinstance(value, dict):
            return _wrong(where, "an object", value)
        for field in self.fields:
            if field.name not in value:
                if field.required:
                    return f"{where}.{field.name} is missing"
                continue
            found = field.shape.problem(value[field.name], f"{where}.{field.name}")
            if found:
                return found
        unknown = sorted(str(name) for name in value.keys() - {field.name for field in self.fields})
        return f"{where}.{unknown[0]} is unknown" if self.closed and unknown else None

    def schema(self) -> Table:
        """See Shape."""
        properties: Table = {}
        for field in self.fields:
            properties[field.name] = {**field.shape.schema(), **({"description": field.note} if field.note else {})}
        required = [field.name for field in self.fields if field.required]
        closed: Table = {"additionalProperties": False} if self.closed else {}
        return {"type": "object", "properties": properties, "required": required, **closed}

    def text(self) -> str:
        """See Shape."""
        names = ", ".join(f"`{field.name}`" + ("" if field.required else "?") for field in self.fields)
        return f"object ({names})" if names else "`{}`"


@dataclass(frozen=True)
class Either(Shape):
    """One of several shapes."""

    shapes: tuple[Shape, ...]

    def problem(self, value: object, where: str) -> str | None:
        """See Shape."""
        found = [shape.problem(value, where) for shape in self.shapes]
        return None if None in found else found[0]

    def schema(self) -> Table:
        """See Shape."""
        return {"anyOf": [shape.schema() for shape in self.shapes]}

    def text(self) -> str:
        """See Shape."""
        return " or ".join(shape.text() for shape in self.shapes)
