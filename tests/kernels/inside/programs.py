"""In the machine: run programs natively and as guests, and compare. ``python3 -m tests.kernels.inside.programs PLATFORM [all]``.

Writes a line for each program to standard output: "pass NAME", "skip NAME: why" or "FAIL NAME: why". Status 1 with a failure.
"""

import sys

import pytest

from tests.programs.cases import ALL, BASH, COREUTILS, QUICK, SEARCHING, Case
from tests.programs.support import need_platform, need_program, same_as_native


def attempt(platform: str, case: Case) -> str:
    """Run one program both ways. Returns what to say of it."""
    try:
        need_platform(platform)
        need_program(case.argv[0])
        same_as_native(platform, case.argv, case.stdin)
    except pytest.skip.Exception as skipped:
        return f"skip {case.name}: {skipped}"
    except (AssertionError, OSError) as error:
        lines = str(error).splitlines() or ["?"]
        return f"FAIL {case.name}: {' | '.join(lines)[:600]}"
    return f"pass {case.name}"


def main() -> int:
    """Run the sample, or all of the suite's programs."""
    platform = sys.argv[1]
    sample = dict.fromkeys((*COREUTILS, *SEARCHING, *BASH[:4], *QUICK)) if platform == "systrap" else QUICK
    failed = 0
    for case in ALL if "all" in sys.argv[2:] else sample:
        said = attempt(platform, case)
        failed += said.startswith("FAIL")
        print(said, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
