"""The conformance protocol's lines: JSON objects, decoded by hand into typed values (conformance.md B2.2).

64-bit values are strings ("0x2a"), since JSON numbers lose them in half of the world's parsers.
"""

import json
import re
from typing import Final, NamedTuple, TypeGuard

PROTOCOL: Final = 1
MAX_DATA: Final = 4096
"""Bytes of memory in one message."""

Reply = dict[str, object]

_U64: Final = (1 << 64) - 1
_WORD: Final = re.compile(r"0x[0-9a-fA-F]{1,16}", re.ASCII)


class ProtocolError(Exception):
    """The line is not a request: bad JSON, an unknown operation or field, a value of the wrong kind."""


class OperationError(Exception):
    """The operation makes no sense now, or the platform refused it. ``kind`` is for programs, the text for people."""

    def __init__(self, kind: str, message: str, **detail: object) -> None:
        super().__init__(message)
        self.kind = kind
        self.detail = detail


class UnsupportedError(Exception):
    """Neither error nor failure: the implementation, or the host, has no such thing. ``cap`` names it."""

    def __init__(self, cap: str, reason: str) -> None:
        super().__init__(reason)
        self.cap = cap


class Fields:
    """The fields of a request, or of an object in one. Getters raise ProtocolError."""

    __slots__ = ("_values", "_where")

    def __init__(self, values: dict[str, object], where: str) -> None:
        self._values = values
        self._where = where

    def check(self, required: frozenset[str], optional: frozenset[str]) -> None:
        """Refuse what is missing, and what nobody knows."""
        for what, names in (
            ("is missing", required - self._values.keys()),
            ("is unknown", self._values.keys() - required - optional),
        ):
            if names:
                raise ProtocolError(f"{self._where}: field {sorted(names)[0]!r} {what}")

    def has(self, name: str) -> bool:
        """Tell whether an optional field is there."""
        return name in self._values

    def names(self) -> list[str]:
        """Return the names of all fields."""
        return list(self._values)

    def integer(self, name: str, low: int = 0, high: int = 1 << 53) -> int:
        """Return a JSON number in ``[low, high]``."""
        value = self._values.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(name, f"an integer from {low} to {high}")
        return value

    def integers(self, name: str, low: int = 0, high: int = 1 << 53) -> list[int]:
        """Return a list of JSON numbers in ``[low, high]``."""
        values = self._values.get(name)
        found: list[int] = []
        for value in values if isinstance(values, list) else [None]:
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise self._bad(name, f"a list of integers from {low} to {high}")
            found.append(value)
        return found

    def word(self, name: str) -> int:
        """Return a 64-bit value, written as a string."""
        value = self._values.get(name)
        if isinstance(value, str) and _WORD.fullmatch(value):
            return int(value, 16)
        raise self._bad(name, 'a 64-bit value as a string ("0x2a")')

    def length(self, name: str) -> int:
        """Return a length: a JSON number, or a 64-bit value as a string."""
        value = self._values.get(name)
        return self.word(name) if isinstance(value, str) else self.integer(name)

    def text(self, name: str) -> str:
        """Return a string."""
        value = self._values.get(name)
        if not isinstance(value, str):
            raise self._bad(name, "a string")
        return value

    def truth(self, name: str) -> bool:
        """Return a boolean."""
        value = self._values.get(name)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def data(self, name: str, limit: int = MAX_DATA) -> bytes:
        """Return bytes, written as lower-case hex."""
        text = self.text(name)
        try:
            data = bytes.fromhex(text)
        except ValueError:
            data = None
        if data is None or data.hex() != text or len(data) > limit:
            raise self._bad(name, f"at most {limit} bytes in lower-case hex")
        return data

    def fields(self, name: str) -> "Fields":
        """Return an object."""
        return Fields(_object(self._values.get(name), f"{self._where}.{name}"), f"{self._where}.{name}")

    def _bad(self, name: str, wanted: str) -> ProtocolError:
        value = json.dumps(self._values.get(name))
        return ProtocolError(f"{self._where}: field {name!r} must be {wanted}, it is {value[:80]}")


def _object(value: object, where: str) -> dict[str, object]:
    """Return a JSON object with its names checked to be text (they always are)."""
    if not isinstance(value, dict):
        raise ProtocolError(f"{where} must be an object")
    return {str(name): field for name, field in value.items()}


class Request(NamedTuple):
    """A decoded line: id, operation, and the fields besides."""

    id: int
    op: str
    fields: Fields


def decode(line: bytes) -> Request:
    """Decode a line. Raises ProtocolError."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {error}") from error
    values = _object(value, "a request")
    number = values.pop("id", None)
    if not _is_id(number):
        raise ProtocolError("a request has an id, which is an integer")
    op = values.pop("op", None)
    if not isinstance(op, str):
        raise ProtocolError("a request has an op, which is a string")
    return Request(number, op, Fields(values, op))


def _is_id(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def request_id(line: bytes) -> int | None:
    """Return the id of a line that is no proper request, if it has one: the answer can name it then."""
    try:
        value: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    number = value.get("id") if isinstance(value, dict) else None
    return number if _is_id(number) else None


def encode(request: int | None, reply: Reply) -> bytes:
    """Return the line that answers a request."""
    return json.dumps({"id": request, **reply}, separators=(",", ":")).encode() + b"\n"


def word(value: int) -> str:
    """Write a 64-bit value."""
    return f"{value & _U64:#x}"
