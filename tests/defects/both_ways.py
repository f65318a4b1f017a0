"""How a defect is shown: one check, run on what we have and on what upstream does.

A check looks for one symptom. It raises DefectError when it sees it, and nothing else may: whatever else goes wrong in a
check is an ordinary failure, so that an original that breaks for another reason does not count as caught.
"""

import contextlib
from contextlib import AbstractContextManager

import pytest

both_ways = pytest.mark.parametrize(
    "original", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ours", "original"]
)
"""Run a test twice; ``original`` says whether upstream's behaviour is put back for it (with the slow tests)."""


class DefectError(Exception):
    """The symptom of an upstream defect was seen."""


def demand(condition: bool, symptom: str) -> None:
    """Raise DefectError with ``symptom`` unless the condition holds."""
    if not condition:
        raise DefectError(symptom)


def verdict(original: bool) -> AbstractContextManager[object]:
    """Return what a check has to end in: nothing for ours, DefectError for the original."""
    return pytest.raises(DefectError) if original else contextlib.nullcontext()
