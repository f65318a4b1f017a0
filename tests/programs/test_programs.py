"""Unmodified programs give the same output, errors and exit status as natively (issue 2, "Must show")."""

import shutil

import pytest
from _pytest.mark import ParameterSet

from tests.programs.cases import ALL, BUSYBOX, QUICK, SAMPLE, Case
from tests.programs.support import guest, need_program, same_as_native


def ids(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


def run_case(platform: str, case: Case) -> None:
    need_program(case.argv[0])
    same_as_native(platform, case.argv, case.stdin)


def marked(case: Case) -> ParameterSet:
    """Return a case as a parameter, marked where it is one of the sample."""
    return pytest.param(case, id=case.name, marks=[pytest.mark.sample] if case.name in SAMPLE else [])


@pytest.mark.parametrize("case", [marked(case) for case in ALL])
def test_same_as_native(case: Case) -> None:
    run_case("systrap", case)


@pytest.mark.parametrize("case", QUICK, ids=ids(QUICK))
def test_same_as_native_under_ptrace(case: Case) -> None:
    run_case("ptrace", case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=ids(ALL))
def test_everything_under_ptrace(case: Case) -> None:
    run_case("ptrace", case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=ids(ALL))
def test_same_on_one_cpu(case: Case) -> None:
    """One CPU is a first-class host: slower, never stuck."""
    need_program(case.argv[0])
    same_as_native("systrap", case.argv, case.stdin, prefix=(need_program("taskset"), "-c", "0"))


@pytest.mark.parametrize("applet", BUSYBOX, ids=[" ".join(applet)[:30] for applet in BUSYBOX])
def test_busybox(applet: tuple[str, ...]) -> None:
    """A static program: no interpreter, no shared library."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed (apt install busybox-static)")
    same_as_native("systrap", (busybox, *applet))


def test_sort_of_ten_megabytes_through_a_pipe() -> None:
    script = "seq 1500000 | tr 0-9 3-90-2 | sort | sha256sum"
    same_as_native("systrap", ("/bin/bash", "-c", script))


@pytest.mark.slow
def test_find_usr_share() -> None:
    same_as_native("systrap", ("/usr/bin/find", "/usr/share", "-xdev"))


@pytest.mark.slow
def test_grep_through_usr_share() -> None:
    same_as_native("systrap", ("/bin/grep", "-rIl", "systematic", "/usr/share/doc"))


def test_output_larger_than_a_pipe() -> None:
    ours = guest("systrap", ("/bin/bash", "-c", "head -c 3000000 /dev/zero"))
    assert ours.status == 0
    assert ours.out == bytes(3_000_000)
