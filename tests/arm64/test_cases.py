"""The conformance cases for arm64: each is one, names what it tests, and has the code that its assembly says."""

import tomllib

import pytest

from blobs import build
from conformance.case import CASES, Case, load_all
from tests.arm64.assembler import assemble

EVERY = list(load_all("aarch64"))


def test_every_file_is_a_case() -> None:
    assert len(EVERY) == len(list((CASES / "aarch64").iterdir()))
    assert {case.arch for case in EVERY} == {"aarch64"}


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)
def test_code_is_what_the_assembly_says(case: Case) -> None:
    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    assert assemble(tomllib.loads(case.path.read_text())["asm"]) == case.code
