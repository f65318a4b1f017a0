"""Which test shows which statement: reads docs/spec.md and the tests, writes docs/spec-coverage.md.

``python -m tests.docs.coverage`` writes the file, ``--check`` only tells whether it is up to date.

A statement is named by a test when its id stands inside the test function: in its docstring, or in a comment. A range is
written S-101…S-104. What a module's docstring says is an outline and does not count. Conformance cases name theirs in
``require``.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
SPEC: Final = ROOT / "docs" / "spec.md"
COVERAGE: Final = ROOT / "docs" / "spec-coverage.md"

CLASSES: Final = ("contract", "ABI", "mechanism")
LEVELS: Final = ("MUST", "SHOULD")
MACHINES: Final = ("x86-64", "arm64", "both")
STATES: Final = ("kept", "partly", "replaced", "not done")

_ID = re.compile(r"\b([SP])-(\d{3})\b")
_RANGE = re.compile(r"\b([SP])-(\d{3})(?:…|\.\.\.)\1-(\d{3})\b")

HEADER: Final = """\
# Which test shows which statement

Written by `python -m tests.docs.coverage` from [spec.md](spec.md) and the tests; a test fails when it is out of date. The
statements are told in [spec.md](spec.md). Names are `file::test` below `tests/`, or conformance cases.

"""


class Statement(NamedTuple):
    """One row of the tables in docs/spec.md."""

    id: str
    level: str
    kind: str
    machine: str
    state: str
    text: str

    @property
    def needs_a_test(self) -> bool:
        """Tell whether CI insists: a MUST for x86-64 that we keep, wholly or in part."""
        return self.level == "MUST" and self.machine != "arm64" and self.state in ("kept", "partly")


def cells(line: str) -> list[str]:
    """Return the cells of a Markdown table row."""
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def statements(text: str) -> list[Statement]:
    """Return the rows with six cells that begin with an id, in the order of the document."""
    rows = [cells(line) for line in text.splitlines() if _ID.match(line.removeprefix("| "))]
    return [Statement(*row) for row in rows if len(row) == 6]


def section(text: str, heading: str) -> str:
    """Return what stands under a heading of the second level."""
    _, _, rest = text.partition(f"\n## {heading}\n")
    return rest.partition("\n## ")[0]


def explained(text: str, heading: str) -> set[str]:
    """Return the ids that the first cells of a section's table name."""
    rows = [cells(line) for line in section(text, heading).splitlines() if line.startswith("| ")]
    return {found for row in rows for found in ids_in(row[0])}


def ids_in(text: str) -> set[str]:
    """Return all ids in a text, ranges included."""
    found = {f"{letter}-{number}" for letter, number in _ID.findall(text)}
    for letter, first, last in _RANGE.findall(text):
        found.update(f"{letter}-{number:03d}" for number in range(int(first), int(last) + 1))
    return found


def named_in_tests(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, test) for each test function below ``root``/tests that names an id."""
    for file in sorted((root / "tests").rglob("test_*.py")):
        if "docs" in file.parts:
            continue
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines()
        place = file.relative_to(root / "tests").as_posix()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                body = "\n".join(lines[node.lineno - 1 : node.end_lineno])
                for found in ids_in(body):
                    yield found, f"{place}::{node.name}"


def named_in_cases(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (id, case) for each conformance case."""
    for file in sorted((root / "conformance" / "cases").rglob("*.toml")):
        case = tomllib.loads(file.read_text(encoding="utf-8"))
        for found in case.get("require", []):
            yield str(found), str(case["id"])


def coverage(root: Path = ROOT) -> dict[str, list[str]]:
    """Return the tests and cases of each id, sorted."""
    table: dict[str, set[str]] = {}
    for found, where in (*named_in_tests(root), *named_in_cases(root)):
        table.setdefault(found, set()).add(where)
    return {found: sorted(places) for found, places in table.items()}


def render(rows: list[Statement], table: dict[str, list[str]]) -> str:
    """Return the contents of docs/spec-coverage.md."""
    wanted = [row for row in rows if row.needs_a_test]
    having = [row for row in wanted if row.id in table]
    out = [HEADER]
    out.append(f"Of {len(wanted)} statements that must have a test on x86-64, {len(having)} have one.\n\n")
    out.append("| id | level | class | machine | state | tests and cases |\n|---|---|---|---|---|---|\n")
    for row in rows:
        places = "<br>".join(f"`{place}`" for place in table.get(row.id, []))
        out.append(f"| {row.id} | {row.level} | {row.kind} | {row.machine} | {row.state} | {places or '–'} |\n")
    return "".join(out)


def main(arguments: list[str]) -> int:
    """Write the file, or with --check compare it."""
    new = render(statements(SPEC.read_text(encoding="utf-8")), coverage())
    if "--check" in arguments:
        if COVERAGE.exists() and COVERAGE.read_text(encoding="utf-8") == new:
            return 0
        print("docs/spec-coverage.md is out of date: run python -m tests.docs.coverage")
        return 1
    COVERAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
