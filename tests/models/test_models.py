"""Every model holds within its bounds, and every mutant is found (issue 3, "The protocol, model-checked")."""

from types import ModuleType

import pytest

from tests.models import context_queue, give_back, interrupts, patching, ready_ring, spinning_queue
from tests.models.catalogue import Bound, Mutant
from tests.models.checker import check

MODELS: tuple[ModuleType, ...] = (context_queue, give_back, interrupts, patching, ready_ring, spinning_queue)


def name_of(model: ModuleType) -> str:
    return model.__name__.rpartition(".")[2]


BOUNDS = [
    pytest.param(
        bound, id=f"{name_of(model)}: {name}", marks=[pytest.mark.slow, pytest.mark.timeout(600)] if bound.slow else []
    )
    for model in MODELS
    for name, bound in model.bounds().items()
]
MUTANTS = [
    pytest.param(mutant, id=f"{name_of(model)}: {name}") for model in MODELS for name, mutant in model.mutants().items()
]


@pytest.mark.parametrize("bound", BOUNDS)
def test_the_protocol_holds(bound: Bound) -> None:
    result = check(bound.system, limit=6_000_000)
    print(result)
    assert result.counterexample is None, str(result.counterexample)
    assert result.states > 100


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_mutant_is_found(mutant: Mutant) -> None:
    result = check(mutant.system)
    print(result)
    found = result.counterexample
    assert (found.kind if found is not None else None) == mutant.finds
    if found is not None:
        assert len(found.trace) + len(found.cycle) > 2, "a counterexample that says nothing"
