"""All seeded bugs, with the cases that find them."""

from typing import Final

from tests.conformance.seeded import (
    chances,
    driver_bugs,
    fp_bugs,
    image_bugs,
    memory_bugs,
    patch_bugs,
    platform_bugs,
    stub_bugs,
)
from tests.conformance.seeded.expected import CAUGHT_BY
from tests.conformance.seeded.mutation import Mutant

_ALL: Final[tuple[Mutant, ...]] = (
    *image_bugs.MUTANTS,
    *stub_bugs.MUTANTS,
    *fp_bugs.MUTANTS,
    *platform_bugs.MUTANTS,
    *memory_bugs.MUTANTS,
    *patch_bugs.MUTANTS,
    *driver_bugs.MUTANTS,
    *chances.MUTANTS,
)

_TOO_BROAD: Final = {"run-twice": ("PROTO-UNKNOWN-001",), "told-too-early": ("PROTO-UNKNOWN-001",)}
"""Bugs that no call survives: what passes all the same."""

MUTANTS: Final[tuple[Mutant, ...]] = tuple(
    mutant._replace(
        caught_by=tuple(CAUGHT_BY[mutant.id].split()), control=_TOO_BROAD.get(mutant.id, mutant.control)
    )
    for mutant in _ALL
)

BY_ID: Final[dict[str, Mutant]] = {mutant.id: mutant for mutant in MUTANTS}
