"""Writes what authors of drivers and runners read from the tables of protocol.py: JSON Schemas, and parts of docs/protocol.md.

``python3 -m conformance.schema`` writes schemas/*.json and the generated part of docs/protocol.md; ``--check`` only tells
whether they are up to date, by its status.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from conformance import protocol
from conformance.protocol import ANSWERS, CAPS, ERROR_KINDS, EVENTS, OPERATIONS, PROTOCOL, Operation
from conformance.selection import LEVELS
from conformance.shapes import ByName, Choice, Field, Hex, Integer, ListOf, Record, Table, Text
from conformance.verdict import MEANING, Status

FOLDER: Final = Path(__file__).parent / "schemas"
REFERENCE: Final = Path(__file__).parents[1] / "docs" / "protocol.md"
BEGIN: Final = "<!-- Written by python3 -m conformance.schema from conformance/protocol.py: change that. -->\n"
END: Final = "<!-- End of what is written by conformance.schema. -->\n"
DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

_ID: Final = Text(1)
_NAMES: Final = ListOf(Text())
_PLANNED: Final = (
    Field("id", _ID),
    Field("title", Text()),
    Field("level", Choice(LEVELS)),
    Field("tier", Integer(0, 6)),
    Field("require", _NAMES, "statements of docs/spec.md"),
)
_HEADER: Final = Record(
    (
        Field("kind", Choice(("header",))),
        Field("suite", Text()),
        Field("protocol", Integer()),
        Field("spec", Text()),
        Field("command", _NAMES),
        Field("seed", Integer()),
        Field("started", Text(), "ISO 8601"),
        Field("host", ByName(Text())),
        Field("plan", ListOf(Record(_PLANNED)), "every case that will get a verdict"),
    )
)
_ROW: Final = Record(
    (
        Field("kind", Choice(("case",))),
        *_PLANNED,
        Field("status", Choice(tuple(status.value for status in Status))),
        Field("reason", Text()),
        Field("transcript", _NAMES, "the last lines: > request, < answer, ! log"),
    )
)
_FOOTER: Final = Record((Field("kind", Choice(("footer",))), Field("driver", Record(), "the answer to hello")))
_CASE: Final = Record(
    (
        *_PLANNED,
        Field("arch", Text(1), "`any`, or as `uname -m`"),
        Field("need", _NAMES, "capabilities"),
        Field("timeout_ms", Integer(1)),
        Field("refs", _NAMES),
        Field("code", Hex(1 << 20)),
        Field("spaces", _NAMES),
        Field("contexts", ByName(Text()), "the space of each context"),
        Field("maps", ListOf(Record()), "mappings to make first; `data` goes to `addr` + `at`"),
        Field("steps", ListOf(Record((Field("do", Text(1)), Field("repeat", Integer())))), "see conformance/README.md"),
    )
)


def _document(title: str, body: Table) -> str:
    return json.dumps({"$schema": DIALECT, "title": title, **body}, indent=2, ensure_ascii=False) + "\n"


def _one_of(file: str, named: dict[str, Table]) -> Table:
    """Return a schema for any of some values, each of which can be named by itself: ``file#/$defs/name``."""
    return {"$id": file, "oneOf": [{"$ref": f"#/$defs/{name}"} for name in named], "$defs": named}


def schemas() -> dict[str, str]:
    """Return the text of each schema file by name."""
    requests = {name: operation.request().schema() for name, operation in OPERATIONS.items()}
    answers = {name: protocol.answer_shape(name).schema() for name in ANSWERS}
    results = {name: Record(operation.result).schema() for name, operation in OPERATIONS.items() if not operation.event}
    events = {name: event.shape().schema() for name, event in EVENTS.items()}
    lines = {"header": _HEADER.schema(), "case": _ROW.schema(), "footer": _FOOTER.schema()}
    head = (Field("suite", Text()), Field("protocol", Integer()), Field("spec", Text()))
    cases: Table = {"$id": "cases.schema.json", **Record((*head, Field("cases", ListOf(_CASE)))).schema()}
    about = f"of the conformance protocol, version {PROTOCOL}"
    files: dict[str, tuple[str, Table]] = {
        "request.schema.json": (f"a request {about}", _one_of("request.schema.json", requests)),
        "answer.schema.json": (f"an answer {about}", _one_of("answer.schema.json", answers)),
        "event.schema.json": (f"an event {about}: the answer of switch", _one_of("event.schema.json", events)),
        "report.schema.json": ("a line of a conformance report", _one_of("report.schema.json", lines)),
        "cases.schema.json": ("the cases, as python3 -m conformance export writes them", cases),
        "result.schema.json": (
            f"results {about}, each by the name of its operation: result.schema.json#/$defs/map",
            {"$id": "result.schema.json", "type": "object", "$defs": results},
        ),
    }
    return {name: _document(title, body) for name, (title, body) in files.items()}


def _rows(which: str, fields: Sequence[Field]) -> list[str]:
    """Return a row for each field of a message."""
    return [
        f"| {which} | `{field.name}` | {field.shape.text()}{'' if field.required else ', may be missing'} | {field.note} |\n"
        for field in fields
    ]


def _operation(operation: Operation) -> list[str]:
    """Return the section of an operation."""
    cap = f" Only with the capability `{operation.cap}`." if operation.cap else ""
    answer = "\nAnswered by an [event](#events).\n" if operation.event else ""
    rows = [*_rows("request", operation.fields), *_rows("result", operation.result)]
    table = ["\n| | field | kind | meaning |\n|---|---|---|---|\n", *rows] if rows else []
    nothing = "" if operation.result or operation.event or operation.open else "\nThe result is `{}`.\n"
    return [f"\n### `{operation.name}`\n\n{operation.note}{cap}\n", *table, nothing, answer]


def reference() -> str:
    """Return the generated part of docs/protocol.md."""
    out = [BEGIN, f"\n## Operations\n\nOf version {PROTOCOL}. Each request has `id` and `op` besides.\n"]
    for operation in OPERATIONS.values():
        out += _operation(operation)
    out.append(
        "\n## Answers\n\nAn answer holds, besides `id`, exactly one of:\n\n| field | what it means | and holds |\n|---|---|---|\n"
    )
    held = {"result": "what the operation says", "event": "one of the [events](#events)"}
    out += [f"| `{name}` | {note} | {held.get(name, shape.text())} |\n" for name, (shape, note) in ANSWERS.items()]
    out.append("\n## Events\n")
    for event in EVENTS.values():
        out.append(f"\n### `{event.kind}`\n\n{event.note}\n")
        rows = _rows("", event.fields)
        out += ["\n| | field | kind | meaning |\n|---|---|---|---|\n", *rows] if rows else []
    out.append("\n## Kinds of errors\n\n| `kind` | when |\n|---|---|\n")
    out += [f"| `{kind}` | {note} |\n" for kind, note in ERROR_KINDS.items()]
    out.append("\n## Capabilities\n\n| capability | what it promises |\n|---|---|\n")
    out += [f"| `{cap}` | {note} |\n" for cap, note in CAPS.items()]
    out.append("\n## Verdicts\n\n| verdict | when |\n|---|---|\n")
    out += [f"| `{status.value}` | {note} |\n" for status, note in MEANING.items()]
    return "".join((*out, "\n", END))


def with_reference(text: str) -> str:
    """Return docs/protocol.md with its generated part made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + reference() + after


def main(arguments: Sequence[str]) -> int:
    """Write the files, or with --check compare them."""
    wanted = {FOLDER / name: text for name, text in schemas().items()}
    wanted[REFERENCE] = with_reference(REFERENCE.read_text(encoding="utf-8"))
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            sys.stdout.write(f"{path} is out of date: run python3 -m conformance.schema\n")
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path], encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
