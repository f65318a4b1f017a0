"""A whole stress run: a platform, a warm-up, the run, and a look at what is left."""

from typing import Final

from systrap import platform
from systrap.platform import Options
from tests.stress.run import Load, Stress, Usage, settle, usage
from tests.stress.world import StressError

SLACK: Final = Usage(descriptors=4, children=2, mappings=24, memory_kib=4096)
"""What may be there more than after the warm-up: stubs kept for reuse, allocator arenas of the interpreter."""


def whole_run(name: str, options: Options, seed: int, load: Load) -> str:
    """Run the stress on a new platform. Returns what happened, as a text; raises StressError."""
    made = platform.lookup(name).new(options)
    try:
        # The level to come back to is that of a platform that has been through everything once.
        _once(Stress(made, seed ^ 1, load._replace(seconds=0.5, kill=False)))
        before = usage()
        stress = Stress(made, seed, load)
        counts = _once(stress)
        left = settle(before, SLACK)
        if left is not None:
            raise StressError(f"seed {seed}: before {before}, afterwards {left}")
        text = ", ".join(f"{what} {number}" for what, number in sorted(counts.items()))
        return f"{name} {options} seed {seed}: {text}; before {before}, after {usage()}"
    finally:
        made.close()


def _once(stress: Stress) -> "dict[str, int]":
    try:
        return dict(stress.run())
    finally:
        stress.close()
