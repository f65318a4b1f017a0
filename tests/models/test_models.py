"""Every model holds within its bounds, every mutant is found, and docs/models.md says what is so (issue 3, point 12)."""

import re
from pathlib import Path
from types import ModuleType

import pytest

from tests.models import context_queue, give_back, interrupts, patching, ready_ring, spinning_queue, user_resume
from tests.models.catalogue import Bound, Mutant
from tests.models.checker import check

MODELS: tuple[ModuleType, ...] = (
    context_queue,
    give_back,
    interrupts,
    patching,
    ready_ring,
    spinning_queue,
    user_resume,
)
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "models.md"


def name_of(model: ModuleType) -> str:
    return model.__name__.rpartition(".")[2]


def rows(first_cells: str) -> list[list[str]]:
    """Return the rows of the document's table whose head begins with these cells."""
    text = DOCUMENT.read_text(encoding="utf-8")
    table = re.search(rf"^\| {re.escape(first_cells)} .*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None, f"no table {first_cells}"
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table[1].splitlines()]


FIGURES = {
    (model, bound): (int(states.replace(",", "")), when) for model, bound, states, _, when in rows("model | bounds")
}
SLOW = (pytest.mark.slow, pytest.mark.timeout(600))
BOUNDS = [
    pytest.param(bound, (name_of(model), name), id=f"{name_of(model)}: {name}", marks=SLOW if bound.slow else ())
    for model in MODELS
    for name, bound in model.bounds().items()
]
MUTANTS = [
    pytest.param(mutant, id=f"{name_of(model)}: {name}", marks=SLOW if mutant.slow else ())
    for model in MODELS
    for name, mutant in model.mutants().items()
]


@pytest.mark.parametrize(("bound", "name"), BOUNDS)
def test_the_protocol_holds(bound: Bound, name: tuple[str, str]) -> None:
    """S-060, S-063, S-065, S-070, S-071, S-084, S-094, P-055, P-074, P-085 among others: see the models' first lines."""
    result = check(bound.system, limit=3_000_000)
    print(result)
    assert result.counterexample is None, str(result.counterexample)
    assert (result.states, "slow" if bound.slow else "always") == FIGURES[name], "docs/models.md says otherwise"


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_mutant_is_found(mutant: Mutant) -> None:
    result = check(mutant.system)
    print(result)
    found = result.counterexample
    assert (found.kind if found is not None else None) == mutant.finds
    if found is not None:
        assert len(found.trace) + len(found.cycle) > 2, "a counterexample that says nothing"


def test_the_document_names_all_bounds_and_no_others() -> None:
    assert set(FIGURES) == {(name_of(model), name) for model in MODELS for name in model.bounds()}


def test_the_document_names_all_mutants_and_what_they_find() -> None:
    told = {(model, mutant, finds) for model, mutant, finds, _ in rows("model | mutant")}
    known = {
        (name_of(model), name, str(mutant.finds or "nothing"))
        for model in MODELS
        for name, mutant in model.mutants().items()
    }
    assert told == known


def test_the_faults_found_are_mutants() -> None:
    mutants = {name for model in MODELS for name in model.mutants()}
    named = {name.strip() for row in rows("what | where") for name in row[2].split(",")}
    assert named
    assert named <= mutants
