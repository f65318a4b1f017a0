"""docs/spec.md and docs/spec-coverage.md: every statement is sorted, and those that bind have a test."""

import re
from pathlib import Path

import pytest

from tests.docs import coverage
from tests.docs.coverage import ROOT, SPEC, Statement

TEXT = SPEC.read_text(encoding="utf-8")
ROWS = coverage.statements(TEXT)
TABLE = coverage.coverage()

COUNTS = {"S": 109, "P": 91}
"""How many statements of each half there are in the specification this was sorted from."""


def test_every_statement_is_sorted_once() -> None:
    ids = [row.id for row in ROWS]
    assert len(ids) == len(set(ids))
    assert {letter: sum(1 for found in ids if found[0] == letter) for letter in "SP"} == COUNTS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_says_what_it_must(row: Statement) -> None:
    assert row.level in coverage.LEVELS
    assert row.kind in coverage.CLASSES
    assert row.machine in coverage.MACHINES
    assert row.state in coverage.STATES
    assert row.text
    assert not row.text.endswith("."), "a line of a table, not a sentence"


def test_what_is_not_kept_has_a_reason() -> None:
    """And what has a reason is not simply kept."""
    told = coverage.explained(TEXT, "What we do instead")
    assert told == {row.id for row in ROWS if row.state != "kept"}


def test_contracts_and_abi_are_kept() -> None:
    """Only mechanisms may be replaced. arm64 comes later; P-065 lost an argument that could be wrong."""
    replaced = {row.id for row in ROWS if row.state not in ("kept", "partly") and row.kind != "mechanism"}
    assert {found for found in replaced if row_of(found).machine != "arm64"} == {"P-065"}


def row_of(found: str) -> Statement:
    """Return the row of an id."""
    return next(row for row in ROWS if row.id == found)


@pytest.mark.parametrize("row", [row for row in ROWS if row.needs_a_test], ids=lambda row: row.id)
def test_a_statement_that_binds_has_a_test(row: Statement) -> None:
    assert TABLE.get(row.id), f"no test names {row.id}: {row.text}"


def test_tests_name_statements_that_there_are() -> None:
    assert set(TABLE) - {row.id for row in ROWS} == set()


def test_the_table_is_up_to_date() -> None:
    """Else: python -m tests.docs.coverage."""
    assert coverage.main(["--check"]) == 0


def test_what_is_not_run_here_is_told() -> None:
    told = coverage.ids_in(coverage.section(TEXT, "Not run here"))
    assert {"S-047", "S-110", "S-001"} <= told
    assert told <= {row.id for row in ROWS}


@pytest.mark.parametrize("name", ["seed.md", "spec.md", "spec-coverage.md"])
def test_files_and_tests_that_are_named_exist(name: str) -> None:
    """Paths and file::test in code marks, besides the links that test_documents.py checks."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    missing = []
    for path, function in re.findall(
        r"`((?:systrap|tests|blobs|conformance|docs|\w+)/[\w/.-]+\.\w+)(?:::(\w+))?`", text
    ):
        file = next((f for f in (ROOT / path, ROOT / "tests" / path) if f.is_file()), None)
        if path.startswith("pkg/"):
            continue  # upstream's
        if file is None or (function and f"def {function}(" not in file.read_text(encoding="utf-8")):
            missing.append(f"{path}::{function}")
    assert missing == []


def test_every_test_in_the_seed_is_a_link() -> None:
    """A test's name that stands alone could rot."""
    text = (ROOT / "docs" / "seed.md").read_text(encoding="utf-8")
    assert re.findall(r"(?<!\[)`test_\w+`", text) == []
    assert len(set(re.findall(r"\[`test_\w+`\]", text))) > 20


# ---- the generator ----


def test_ranges_are_all_their_members() -> None:
    assert coverage.ids_in("S-009…S-011, P-001") == {"S-009", "S-010", "S-011", "P-001"}
    assert coverage.ids_in("XS-009 S-09 S-0099") == set()


def write(root: Path, name: str, text: str) -> None:
    """Write a file below a folder."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_only_tests_name_statements(tmp_path: Path) -> None:
    """A module's docstring is an outline, a helper is no test, and what tests the documents does not count."""
    module = (
        '"""P-001…P-003"""\ndef helper():\n    """P-002"""\ndef test_it():\n    """P-003."""\n    # S-001\n    pass\n'
    )
    write(tmp_path, "tests/a/test_one.py", module)
    write(tmp_path, "tests/docs/test_two.py", 'def test_it():\n    """P-009"""\n')
    write(tmp_path, "tests/other.py", 'def test_it():\n    """P-008"""\n')
    write(tmp_path, "conformance/cases/x.toml", 'id = "X-001"\nrequire = ["P-007"]\n')
    assert coverage.coverage(tmp_path) == {
        "P-003": ["a/test_one.py::test_it"],
        "S-001": ["a/test_one.py::test_it"],
        "P-007": ["X-001"],
    }


def test_the_table_counts() -> None:
    rows = [
        Statement("S-001", "MUST", "contract", "both", "kept", "One"),
        Statement("S-002", "MUST", "contract", "arm64", "kept", "Two"),
        Statement("S-003", "MUST", "contract", "x86-64", "kept", "Three"),
    ]
    text = coverage.render(rows, {"S-001": ["f::t", "CASE"]})
    assert "Of 2 statements that must have a test on x86-64, 1 have one." in text
    assert "| S-001 | MUST | contract | both | kept | `f::t`<br>`CASE` |" in text
    assert "| S-003 | MUST | contract | x86-64 | kept | – |" in text
