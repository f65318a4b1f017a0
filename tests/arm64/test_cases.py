"""The conformance cases for arm64: each is one, names what it tests, and has the code that its assembly says."""

import tomllib

import pytest

from blobs import build
from conformance.case import CASES, load_all
from tests.arm64.assembler import assemble_all

EVERY = list(load_all("aarch64"))


def test_every_file_is_a_case() -> None:
    assert len(EVERY) == len(list((CASES / "aarch64").iterdir()))
    assert {case.arch for case in EVERY} == {"aarch64"}


def test_code_is_what_the_assembly_says() -> None:
    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    code = assemble_all({case.id: tomllib.loads(case.path.read_text())["asm"] for case in EVERY})
    assert [case.id for case in EVERY if code[case.id] != case.code] == []


def test_a_case_that_both_have_asks_for_the_same() -> None:
    """The same id is the same requirement: its tier and level, and statements that x86-64's names, too."""
    others = {case.id: case for case in load_all("x86_64")}
    shared = [(case, others[case.id]) for case in EVERY if case.id in others]
    assert len(shared) > 100
    assert [case.id for case, other in shared if (case.level, case.tier) != (other.level, other.tier)] == []
    assert [case.id for case, other in shared if other.require and not set(case.require) & set(other.require)] == []
