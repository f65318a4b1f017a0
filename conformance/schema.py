"""Writes what authors of drivers and runners read from the tables of protocol.py: JSON Schemas, and parts of docs/protocol.md.

``python3 -m conformance.schema`` writes schema/*.json and the generated part of docs/protocol.md; ``--check`` only tells
whether they are up to date, by its status.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from conformance import protocol
from conformance.protocol import ANSWERS, CAPS, ERROR_KINDS, EVENTS, OPERATIONS, PROTOCOL
from conformance.selection import LEVELS
from conformance.shapes import ByName, Choice, Field, Hex, Integer, ListOf, Record, Table, Text
from conformance.verdict import MEANING, Status

FOLDER: Final = Path(__file__).parent / "schema"
REFERENCE: Final = Path(__file__).parents[1] / "docs" / "protocol.md"
BEGIN: Final = "<!-- Written by python3 -m conformance.schema from conformance/protocol.py: change that. -->\n"
END: Final = "<!-- End of what is written by conformance.schema. -->\n"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

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
    return json.dumps({"$schema": _DIALECT, "title": title, **body}, indent=2, ensure_ascii=False) + "\n"


def schemas() -> dict[str, str]:
    """Return the text of each schema file by name."""
    requests: Table = {"oneOf": [operation.request().schema() for operation in OPERATIONS.values()]}
    results: Table = {
        f"result of {name}": Record(operation.result).schema()
        for name, operation in OPERATIONS.items()
        if not operation.event
    }
    answers: Table = {"oneOf": [protocol.answer_shape(name).schema() for name in ANSWERS], "$defs": results}
    report: Table = {"oneOf": [shape.schema() for shape in (_HEADER, _ROW, _FOOTER)]}
    head = (Field("suite", Text()), Field("protocol", Integer()), Field("spec", Text()))
    cases = Record((*head, Field("cases", ListOf(_CASE)))).schema()
    return {
        "request.schema.json": _document(f"a request of the conformance protocol, version {PROTOCOL}", requests),
        "answer.schema.json": _document(f"an answer of the conformance protocol, version {PROTOCOL}", answers),
        "report.schema.json": _document("a line of a conformance report", report),
        "cases.schema.json": _document("the cases, as python3 -m conformance export writes them", cases),
    }


def _rows(fields: Sequence[Field]) -> str:
    if not fields:
        return "none"
    return "<br>".join(
        f"`{field.name}`{'' if field.required else '?'}: {field.shape.text()}{f'; {field.note}' if field.note else ''}"
        for field in fields
    )


def reference() -> str:
    """Return the generated part of docs/protocol.md."""
    out = [
        BEGIN,
        f"\n## Operations (version {PROTOCOL})\n\n| operation | request, besides `id` and `op` | result |\n|---|---|---|\n",
    ]
    for operation in OPERATIONS.values():
        result = "an event" if operation.event else _rows(operation.result)
        note = operation.note + (f" With the capability `{operation.cap}` only." if operation.cap else "")
        out.append(f"| `{operation.name}`<br>{note} | {_rows(operation.fields)} | {result} |\n")
    out.append("\nA question mark: the field may be left out.\n\n## Answers\n\n| field | what it holds |\n|---|---|\n")
    out += [
        f"| `{name}` | {note}: {shape.text() if name != 'event' else 'see below'} |\n"
        for name, (shape, note) in ANSWERS.items()
    ]
    out.append("\n## Events\n\n| `kind` | when | fields |\n|---|---|---|\n")
    out += [f"| `{event.kind}` | {event.note} | {_rows(event.fields)} |\n" for event in EVENTS.values()]
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
