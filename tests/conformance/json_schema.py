"""A validator of JSON Schema, draft 2020-12, for as much of it as our schemas use; anything else in one is an error here.

It shares nothing with conformance/shapes.py, so that the schemas are judged by what they say and not by what wrote them.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

from conformance.schema import FOLDER

Schema = dict[str, object]

_ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description"}


def load(name: str, definition: str = "", folder: Path = FOLDER) -> "Validator":
    """Return a validator of a file, or of one of its definitions."""
    whole = json.loads((folder / name).read_text(encoding="utf-8"))
    return Validator(whole, whole["$defs"][definition] if definition else whole)


class Validator:
    """Tells what is wrong with values."""

    def __init__(self, document: Schema, schema: Schema) -> None:
        self._document = document
        self._schema = schema

    def problem(self, value: object) -> str | None:
        """Return where the first mistake is, or None."""
        return self._problem(self._schema, value, "")

    def _problem(self, schema: Schema, value: object, where: str) -> str | None:
        for keyword, wanted in schema.items():
            if keyword in _ANNOTATIONS:
                continue
            if keyword not in _KEYWORDS:
                raise NotImplementedError(keyword)
            found = _KEYWORDS[keyword](self, schema, wanted, value, where)
            if found:
                return found
        return None

    def type(self, _schema: Schema, wanted: object, value: object, where: str) -> str | None:
        number = isinstance(value, int) and not isinstance(value, bool)
        kinds = {
            "object": isinstance(value, dict),
            "array": isinstance(value, list),
            "string": isinstance(value, str),
            "integer": number,
        }
        return None if kinds[str(wanted)] else f"{where} is no {wanted}"

    def properties(self, _schema: Schema, wanted: dict[str, Schema], value: object, where: str) -> str | None:
        if not isinstance(value, dict):
            return None
        found = (self._problem(wanted[name], value[name], f"{where}/{name}") for name in wanted if name in value)
        return next(filter(None, found), None)

    def required(self, _schema: Schema, wanted: list[str], value: object, where: str) -> str | None:
        missing = [name for name in wanted if isinstance(value, dict) and name not in value]
        return f"{where} has no {missing[0]}" if missing else None

    def additional(self, schema: Schema, wanted: Schema | bool, value: object, where: str) -> str | None:
        known = schema.get("properties", {})
        if not isinstance(value, dict) or not isinstance(known, dict):
            return None
        more = [name for name in value if name not in known]
        if isinstance(wanted, bool):
            return f"{where} has {more[0]}" if more and not wanted else None
        return next(filter(None, (self._problem(wanted, value[name], f"{where}/{name}") for name in more)), None)

    def items(self, _schema: Schema, wanted: Schema, value: object, where: str) -> str | None:
        if not isinstance(value, list):
            return None
        return next(filter(None, (self._problem(wanted, one, f"{where}/{i}") for i, one in enumerate(value))), None)

    def size(self, schema: Schema, _wanted: object, value: object, where: str) -> str | None:
        """Check minItems, maxItems, minLength, maxLength."""
        kind = "Items" if isinstance(value, list) else "Length" if isinstance(value, str) else ""
        low, high = schema.get(f"min{kind}", 0), schema.get(f"max{kind}", 1 << 60)
        if not isinstance(value, list | str) or not isinstance(low, int) or not isinstance(high, int):
            return None
        return None if low <= len(value) <= high else f"{where} has {len(value)} parts"

    def bounds(self, schema: Schema, _wanted: object, value: object, where: str) -> str | None:
        low, high = schema.get("minimum", -(1 << 70)), schema.get("maximum", 1 << 70)
        assert isinstance(low, int)
        assert isinstance(high, int)
        return None if not isinstance(value, int) or low <= value <= high else f"{where} is out of bounds"

    def pattern(self, _schema: Schema, wanted: str, value: object, where: str) -> str | None:
        fine = not isinstance(value, str) or re.search(wanted, value, re.ASCII)
        return None if fine else f"{where} does not look like {wanted}"

    def enum(self, _schema: Schema, wanted: list[object], value: object, where: str) -> str | None:
        return None if value in wanted else f"{where} is none of {wanted}"

    def const(self, _schema: Schema, wanted: object, value: object, where: str) -> str | None:
        return None if type(value) is type(wanted) and value == wanted else f"{where} is not {wanted}"

    def one_of(self, _schema: Schema, wanted: list[Schema], value: object, where: str) -> str | None:
        good = [one for one in wanted if self._problem(one, value, where) is None]
        return None if len(good) == 1 else f"{where or '/'} matches {len(good)} of {len(wanted)}"

    def any_of(self, _schema: Schema, wanted: list[Schema], value: object, where: str) -> str | None:
        found = [self._problem(one, value, where) for one in wanted]
        return None if None in found else found[0]

    def ref(self, _schema: Schema, wanted: str, value: object, where: str) -> str | None:
        place: object = self._document
        for name in wanted.removeprefix("#/").split("/"):
            assert isinstance(place, dict)
            place = place[name]
        assert isinstance(place, dict)
        return self._problem(place, value, where)


_KEYWORDS: dict[str, Callable[..., str | None]] = {
    "type": Validator.type,
    "properties": Validator.properties,
    "required": Validator.required,
    "additionalProperties": Validator.additional,
    "items": Validator.items,
    "minItems": Validator.size,
    "maxItems": Validator.size,
    "minLength": Validator.size,
    "maxLength": Validator.size,
    "minimum": Validator.bounds,
    "maximum": Validator.bounds,
    "pattern": Validator.pattern,
    "enum": Validator.enum,
    "const": Validator.const,
    "oneOf": Validator.one_of,
    "anyOf": Validator.any_of,
    "$ref": Validator.ref,
}
