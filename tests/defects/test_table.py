"""docs/upstream-defects.md, tests/defects/table.py and the tests of this folder tell the same."""

import ast
import re
from pathlib import Path

import pytest

from tests.defects.mutants import MUTANTS, Edit, put_back
from tests.defects.table import BUG_MARKS, DEFECTS, Defect, Shown

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "upstream-defects.md"
COLUMNS = 5
_ID = re.compile(r"`([A-Z0-9]+(?:-[A-Z0-9]+)*)`")
_TEST = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")


def rows() -> dict[str, list[str]]:
    """Return the rows of the page's tables by id; fails on one that is not well formed."""
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        if not line.startswith("| `"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        assert len(cells) == COLUMNS, line
        name = _ID.fullmatch(cells[0])
        assert name is not None, line
        assert name[1] not in found, f"{name[1]} has two rows"
        found[name[1]] = cells
    return found


def named_tests(row: list[str]) -> list[ast.FunctionDef]:
    """Return the test functions that a row names; fails on one that is not there."""
    found = []
    for name, path in _TEST.findall(row[-1]):
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
        assert functions, f"{path} has no {name}"
        found += functions
    return found


def test_the_page_has_the_rows_of_the_table() -> None:
    assert list(rows()) == [defect.id for defect in DEFECTS]


def test_every_mark_of_the_specification_has_a_row() -> None:
    assert {mark: name for mark, name in BUG_MARKS.items() if name not in rows()} == {}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.id)
def test_a_row_names_tests_that_show_it(defect: Defect) -> None:
    """Tests that are there, and tell of themselves which defect they show, and which statements ours keep."""
    row = rows()[defect.id]
    found = named_tests(row)
    assert found, "the row names no test"
    told = [ast.get_docstring(test) or "" for test in found]
    assert all(text.startswith(f"{defect.id}") for text in told), told
    missing = [statement for statement in defect.statements if not any(statement in text for text in told)]
    assert missing == []
    expected_to_fail = [test.name for test in found if "xfail" in "".join(map(ast.unparse, test.decorator_list))]
    assert expected_to_fail == []
    in_both_ways = [test for test in found if "original" in [argument.arg for argument in test.args.args]]
    assert bool(in_both_ways) == (defect.shown is Shown.BOTH_WAYS)
    assert ("**" in row[2]) == (defect.shown is Shown.REMAINS), "what remains is to be seen at a glance"


def test_every_mutant_is_of_a_defect() -> None:
    known = {defect.id for defect in DEFECTS}
    assert {name for name in MUTANTS if re.split(r"[: ]", name)[0] not in known} == set()


def test_every_mutant_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in MUTANTS if f'"{name}"' not in text] == []


@pytest.mark.parametrize("name", MUTANTS)
def test_edits_fit_the_sources(name: str, tmp_path: Path) -> None:
    """Where there is no compiler this is what tells that a source changed and its mutant did not."""
    for edit in MUTANTS[name].edits:
        copy = tmp_path / "source"
        copy.write_text((ROOT / "blobs" / "src" / edit.file).read_text())
        put_back(copy, edit)
        assert edit.ours not in copy.read_text() or edit.ours in edit.original


def test_an_edit_that_fits_nowhere_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("one two two")
    for text in ("three", "two"):
        with pytest.raises(AssertionError, match="it changed, so must the mutant"):
            put_back(tmp_path / "source", Edit("source", text, ""))
