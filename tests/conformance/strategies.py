"""Hypothesis strategies for the protocol's messages, made from its own tables: values of a shape, and JSON at large."""

import re

from hypothesis import strategies as st

from conformance.shapes import (
    ByName,
    Choice,
    Either,
    Exactly,
    Hex,
    Integer,
    ListOf,
    Matching,
    Record,
    Shape,
    Text,
    Word,
)

JSON: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("0x10"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
"""Any JSON value."""


def values(shape: Shape) -> st.SearchStrategy[object]:
    """Return the values of a shape."""
    match shape:
        case Word():
            return st.integers(0, (1 << 64) - 1).flatmap(
                lambda number: st.sampled_from([f"{number:#x}", f"0x{number:X}"])
            )
        case Integer():
            return st.integers(shape.low, shape.high)
        case Text():
            return st.text(min_size=shape.least, max_size=12)
        case Matching():
            return st.from_regex(re.compile(shape.pattern, re.ASCII), fullmatch=True)
        case Choice():
            return st.sampled_from(shape.names)
        case Exactly():
            return st.just(shape.value)
        case Hex():
            size = shape.exact
            low, high = (size, size) if size is not None else (0, min(shape.limit, 64))
            return st.binary(min_size=low, max_size=high).map(bytes.hex)
        case ListOf():
            least, most = (shape.exact, shape.exact) if shape.exact is not None else (0, 4)
            return st.lists(values(shape.item), min_size=least, max_size=most).map(list[object])
        case ByName():
            return st.dictionaries(st.text(min_size=1, max_size=6), values(shape.item), max_size=3).map(
                dict[str, object]
            )
        case Record():
            needed = {field.name: values(field.shape) for field in shape.fields if field.required}
            others = {field.name: values(field.shape) for field in shape.fields if not field.required}
            return st.fixed_dictionaries(needed, optional=others).map(dict[str, object])
        case Either():
            return st.one_of([values(one) for one in shape.shapes])
        case _:
            raise AssertionError(f"no values for {type(shape).__name__}")
