"""Properties of the codec: the suite's side (shapes.py, protocol.py) and our driver's (driver_wire.py) mean the same."""

import json
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from conformance.protocol import ANSWERS, EVENTS, OPERATIONS, answer_shape, problem_of
from conformance.shapes import MAX_DATA, Choice, Hex, Integer, Word
from systrap.cli import driver_ops
from systrap.cli.driver_wire import Fields, ProtocolError, decode, encode, request_id, word
from tests.conformance.strategies import JSON, values

OPS = sorted(OPERATIONS)
MAYBE_WORDS = st.text("0123456789abcdefABCDEFxX _+-.\n\u0660", max_size=20) | st.text(
    "0123456789abcdefABCDEF_ ", max_size=20
).map(lambda rest: "0x" + rest)
MAYBE_HEX = st.text("0123456789abcdefAB \n", max_size=12) | st.binary(max_size=20).map(bytes.hex)


def accepted(read: Callable[[Fields, str], object], value: object) -> bool:
    """Tell whether a getter of the driver takes a value."""
    try:
        read(Fields({"v": value}, "test"), "v")
    except ProtocolError:
        return False
    return True


# Values.


@given(MAYBE_WORDS | JSON)
@example("0x1 ")
@example("0x" + "0" * 16 + "1")
@example("0x1\n")
@example("0X1")
@example("0x")
@example("0x1_0")
def test_both_sides_accept_the_same_words(value: object) -> None:
    assert accepted(Fields.word, value) == (Word().problem(value, "v") is None)


@given(MAYBE_HEX | JSON)
def test_both_sides_accept_the_same_bytes(value: object) -> None:
    assert accepted(Fields.data, value) == (Hex().problem(value, "v") is None)


@given(st.sampled_from([MAX_DATA - 1, MAX_DATA, MAX_DATA + 1]))
def test_both_sides_have_the_same_limit_of_bytes(size: int) -> None:
    assert accepted(Fields.data, "ab" * size) == (Hex().problem("ab" * size, "v") is None) == (size <= MAX_DATA)


@given(st.integers() | JSON)
def test_both_sides_accept_the_same_integers(value: object) -> None:
    assert accepted(Fields.integer, value) == (Integer().problem(value, "v") is None)


@given(st.integers())
def test_a_word_survives(number: int) -> None:
    """Written by the driver, read by the suite; and read by the driver itself."""
    text = word(number)
    assert Word().problem(text, "v") is None
    assert Fields({"v": text}, "test").word("v") == number & (1 << 64) - 1


# Requests.


def test_both_sides_know_the_same_operations() -> None:
    assert set(OPERATIONS) == set(driver_ops.OPERATIONS)
    for name, operation in OPERATIONS.items():
        ours = driver_ops.OPERATIONS[name]
        assert {field.name for field in operation.fields if field.required} == ours.required
        assert {field.name for field in operation.fields if not field.required} == ours.optional


@given(st.data(), st.sampled_from(OPS), st.integers(0, 1 << 53))
def test_a_request_is_decoded_as_it_was_written(data: st.DataObject, op: str, number: int) -> None:
    operation = OPERATIONS[op]
    body = {field.name: data.draw(values(field.shape)) for field in operation.fields}
    request = {"id": number, "op": op, **body}
    assert operation.request().problem(request, "request") is None
    decoded = decode(json.dumps(request).encode())
    assert (decoded.id, decoded.op, set(decoded.fields.names())) == (number, op, set(body))
    ours = driver_ops.OPERATIONS[op]
    decoded.fields.check(ours.required, ours.optional)


@given(st.data(), st.sampled_from([op for op in OPS if OPERATIONS[op].fields]))
def test_a_field_too_few_or_too_many_is_refused(data: st.DataObject, op: str) -> None:
    operation, ours = OPERATIONS[op], driver_ops.OPERATIONS[op]
    body = {field.name: data.draw(values(field.shape)) for field in operation.fields if field.required}
    more = {**body, "surplus": 1}
    assert operation.request().problem({"id": 1, "op": op, **more}, "request") is not None
    with pytest.raises(ProtocolError, match="surplus"):
        Fields(more, op).check(ours.required, ours.optional)
    gone = data.draw(st.sampled_from(sorted(body)))
    less = {name: value for name, value in body.items() if name != gone}
    assert operation.request().problem({"id": 1, "op": op, **less}, "request") is not None
    with pytest.raises(ProtocolError, match=gone):
        Fields(less, op).check(ours.required, ours.optional)


@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_line_confuses_the_driver(line: bytes) -> None:
    """A line is a request, or it is refused; and what can be told of its id never fails either."""
    try:
        request = decode(line)
    except ProtocolError:
        found = request_id(line)
        assert found is None or isinstance(found, int)
    else:
        assert request_id(line) == request.id


@pytest.mark.parametrize(
    "line", [b"[" * 200_000, b'{"id":' * 100_000, b"1" * 100_000, b'{"id": NaN, "op": "bye"}', b"\xff\x00"]
)
def test_lines_that_are_hard_to_read(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(line)
    assert request_id(line) is None


# Answers.


@given(st.data(), st.sampled_from(OPS))
def test_every_answer_of_its_shape_is_fine(data: st.DataObject, op: str) -> None:
    operation = OPERATIONS[op]
    name = data.draw(st.sampled_from(sorted(ANSWERS)))
    body: object
    if name == "event":
        body = data.draw(values(EVENTS[data.draw(st.sampled_from(sorted(EVENTS)))].shape()))
    elif name == "result":
        body = {field.name: data.draw(values(field.shape)) for field in operation.result if field.required}
    else:
        body = data.draw(values(ANSWERS[name][0]))
    answer: dict[str, object] = {"id": 7, name: body}
    fits = {"event": operation.event, "result": not operation.event}.get(name, True)
    assert (problem_of(op, answer) is None) == fits
    if fits:
        # The driver's encoder writes a line that reads back the same.
        assert json.loads(encode(7, {name: body})) == answer


@given(st.sampled_from(OPS), st.dictionaries(st.sampled_from([*ANSWERS, "id", "more"]), JSON, max_size=4))
def test_no_answer_confuses_the_suite(op: str, answer: dict[str, object]) -> None:
    """Whatever a driver says, there is a verdict; and it is good only if exactly one of the answers is there, and no more."""
    if problem_of(op, answer) is None:
        assert len(answer.keys() & ANSWERS.keys()) == 1
        assert answer.keys() <= {"id", *ANSWERS}


@given(st.data(), st.sampled_from(sorted(EVENTS)))
def test_an_event_without_one_of_its_fields_is_refused(data: st.DataObject, kind: str) -> None:
    event = data.draw(values(EVENTS[kind].shape()))
    assert isinstance(event, dict)
    needed = [field.name for field in EVENTS[kind].fields if field.required]
    for name in needed:
        answer: dict[str, object] = {"id": 1, "event": {key: value for key, value in event.items() if key != name}}
        assert f"{name} is missing" in str(problem_of("switch", answer))


@given(st.data(), st.sampled_from(sorted(EVENTS)), JSON)
def test_an_event_with_a_wrong_field_is_refused(data: st.DataObject, kind: str, wrong: object) -> None:
    event = data.draw(values(EVENTS[kind].shape()))
    assert isinstance(event, dict)
    for field in EVENTS[kind].fields:
        bad = field.shape.problem(wrong, field.name) is not None
        assert (problem_of("switch", {"id": 1, "event": {**event, field.name: wrong}}) is not None) == bad


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_schemas_are_closed_at_the_top(name: str) -> None:
    assert answer_shape(name).schema()["additionalProperties"] is False
    assert Choice(("a",)).problem("b", "v") is not None
