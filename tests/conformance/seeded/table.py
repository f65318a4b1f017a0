"""All seeded bugs, with the cases that find them."""

from typing import Final

from tests.conformance.seeded import (
    chances,
    driver_bugs,
    fp_bugs,
    half_bugs,
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
    *half_bugs.MUTANTS,
    *chances.MUTANTS,
)

_NO_GUEST: Final = ("DRV-ONCE-001",)
_CONTROLS: Final = {
    "run-twice": _NO_GUEST,
    "told-too-early": _NO_GUEST,
    "lost-wake-park": _NO_GUEST,
    "lost-wake-sentry": _NO_GUEST,
    "lost-wake-ring": _NO_GUEST,
    "no-bell": _NO_GUEST,
    "filter-getpid": ("SYS-NR-001",),
}
"""What passes all the same, where SMOKE-CALL-001 need not."""

_BY_SIGRETURN: Final = frozenset(("blobs/src/x86_64/sighandler.c", "blobs/src/x86_64/switch.c"))


def _row(mutant: Mutant) -> Mutant:
    """Return a mutant with its cases. Bugs on upstream's way back to the guest (rt_sigreturn) show where that way is taken."""
    switches = mutant.switches
    if not mutant.half and any(edit.file in _BY_SIGRETURN for edit in mutant.edits):
        switches = ("--no-user-resume", *switches)
    return mutant._replace(
        caught_by=tuple(CAUGHT_BY[mutant.id].split()),
        control=_CONTROLS.get(mutant.id, mutant.control),
        switches=switches,
    )


MUTANTS: Final[tuple[Mutant, ...]] = tuple(_row(mutant) for mutant in _ALL)

BY_ID: Final[dict[str, Mutant]] = {mutant.id: mutant for mutant in MUTANTS}
