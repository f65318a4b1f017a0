"""All seeded bugs."""

from typing import Final

from tests.conformance.seeded import chances, driver_bugs, fp_bugs, image_bugs, memory_bugs, patch_bugs, platform_bugs, stub_bugs
from tests.conformance.seeded.mutation import Mutant

MUTANTS: Final[tuple[Mutant, ...]] = (
    *image_bugs.MUTANTS,
    *stub_bugs.MUTANTS,
    *fp_bugs.MUTANTS,
    *platform_bugs.MUTANTS,
    *memory_bugs.MUTANTS,
    *patch_bugs.MUTANTS,
    *driver_bugs.MUTANTS,
    *chances.MUTANTS,
)

BY_ID: Final[dict[str, Mutant]] = {mutant.id: mutant for mutant in MUTANTS}
