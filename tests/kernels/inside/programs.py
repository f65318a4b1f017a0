"""In the machine: run programs natively and as guests, and compare: ``tests.kernels.inside.programs PLATFORM all|sample|few``.

Writes a line for each program to standard output: "pass NAME", "skip NAME: why" or "FAIL NAME: why". Status 1 with a failure.
"""

import subprocess
import sys
from typing import Final

import pytest

from tests.programs.cases import ALL, BASH, COREUTILS, QUICK, SEARCHING, Case
from tests.programs.support import need_platform, need_program, same_as_native

# Threads that hand a lock around take minutes where an emulator makes a system call take milliseconds: not among the few.
CHOICES: Final = {
    "all": ALL,
    "sample": (*COREUTILS, *SEARCHING, *BASH[:4], *QUICK),
    "few": (*COREUTILS[:4], *(case for case in QUICK if case.name != "python/threads")),
}


def attempt(platform: str, case: Case) -> str:
    """Run one program both ways. Returns what to say of it."""
    try:
        need_platform(platform)
        need_program(case.argv[0])
        same_as_native(platform, case.argv, case.stdin)
    except pytest.skip.Exception as skipped:
        return f"skip {case.name}: {skipped}"
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        lines = str(error).splitlines() or ["?"]
        return f"FAIL {case.name}: {' | '.join(lines)[:600]}"
    return f"pass {case.name}"


def main() -> int:
    """Run as many of the suite's programs as were asked for."""
    platform, how_many = sys.argv[1:3]
    failed = 0
    for case in dict.fromkeys(CHOICES[how_many]):
        said = attempt(platform, case)
        failed += said.startswith("FAIL")
        print(said, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
