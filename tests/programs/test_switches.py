"""Programs run the same under every combination of the platform's switches (issue 3, "Must show").

The default combination is test_programs.py's; what a kernel lacks is skipped, and said.
"""

from itertools import product

import pytest

from systrap.host.probe import Host
from systrap.platform import DISPATCH, SECCOMP
from tests.programs.cases import ALL, QUICK, Case
from tests.programs.support import need_program, same_as_native

COMBINATIONS = tuple(
    ("--syscall-trap", trap, *patching, *fast_path)
    for trap, patching, fast_path in product(
        (DISPATCH, SECCOMP), ((), ("--no-syscall-patching",)), ((), ("--no-fast-path",))
    )
)
COMBINATIONS += (
    ("--no-user-resume",),
    ("--no-quick-calls",),
    ("--no-user-resume", "--no-quick-calls", "--no-fast-path"),
)
NAMES = [" ".join(options).removeprefix("--syscall-trap ") for options in COMBINATIONS]

combinations = pytest.mark.parametrize("options", COMBINATIONS, ids=NAMES)


def run_case(options: tuple[str, ...], case: Case) -> None:
    if DISPATCH in options and Host().experiment("user_dispatch") != 0:
        pytest.skip("this kernel has no syscall user dispatch")
    need_program(case.argv[0])
    same_as_native("systrap", case.argv, case.stdin, options=options)


SAMPLE = tuple(case for case in QUICK if case.name in ("bash/pipelines",))


@combinations
@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: str(case.name))
def test_a_sample(case: Case, options: tuple[str, ...]) -> None:
    run_case(options, case)


@pytest.mark.slow
@combinations
@pytest.mark.parametrize("case", [case for case in ALL if case not in SAMPLE], ids=lambda case: str(case.name))
def test_everything(case: Case, options: tuple[str, ...]) -> None:
    run_case(options, case)
