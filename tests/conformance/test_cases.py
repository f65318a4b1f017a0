"""Case files: the ones that are there, and mistakes in ones that are not."""

import shutil
import subprocess
from pathlib import Path

import pytest

from blobs import build
from conformance.case import CASES, Case, CaseError, load, load_all
from tests.arm64.assembler import assemble

ARCHES = ("x86_64", "aarch64")
BY_ARCH = {arch: list(load_all(arch)) for arch in ARCHES}
EVERY = [case for cases in BY_ARCH.values() for case in cases]


def name_of(case: Case) -> str:
    return f"{case.arch}-{case.id}"


GOOD = """
id = "SYS-TEST-001"
title = "a case"
require = ["P-040"]
level = "must"
tier = 1
arch = "x86_64"
code = "0f05"
map = [{ addr = "0x10000000", len = 4096, prot = "rx", data = "$code" }]

[[step]]
expect = { kind = "syscall" }
"""


@pytest.mark.parametrize("arch", ARCHES)
def test_every_file_is_a_case(arch: str) -> None:
    assert len(BY_ARCH[arch]) == len(list((CASES / arch).iterdir()))
    assert {case.arch for case in BY_ARCH[arch]} == {arch}


@pytest.mark.parametrize("case", EVERY, ids=name_of)
def test_every_case_names_what_it_tests(case: Case) -> None:
    assert case.require
    assert case.title == case.title.strip()
    assert case.code


@pytest.mark.skipif(shutil.which("as") is None or shutil.which("objcopy") is None, reason="needs binutils")
@pytest.mark.parametrize("case", BY_ARCH["x86_64"], ids=name_of)
def test_code_is_what_the_assembly_says(case: Case, tmp_path: Path) -> None:
    import tomllib

    source = tomllib.loads(case.path.read_text())["asm"].replace(";", "\n")
    (tmp_path / "a.s").write_text(f".intel_syntax noprefix\n{source}\n")
    subprocess.run(["as", "--64", "a.s", "-o", "a.o"], cwd=tmp_path, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", "a.o", "a.bin"], cwd=tmp_path, check=True)
    assert (tmp_path / "a.bin").read_bytes() == case.code


@pytest.mark.parametrize("case", BY_ARCH["aarch64"], ids=name_of)
def test_arm64_code_is_what_the_assembly_says(case: Case) -> None:
    import tomllib

    try:
        build.check_compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    assert assemble(tomllib.loads(case.path.read_text())["asm"]) == case.code


def write(folder: Path, text: str, name: str = "sys-test-001.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_good_case(tmp_path: Path) -> None:
    case = load(write(tmp_path, GOOD))
    assert (case.id, case.timeout_ms, case.contexts, case.spaces) == (
        "SYS-TEST-001",
        2000,
        {"main": "main"},
        ("main",),
    )
    assert case.maps[0].data == b"\x0f\x05"
    assert (case.steps[0].do, case.steps[0].repeat) == ("switch", 1)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('title = "a case"', "", "'title' must be there"),
        ("tier = 1", 'tier = "1"', "'tier' must be there, and of type int"),
        ("tier = 1", "tier = true", "'tier' must be there, and of type int"),
        ('level = "must"', 'level = "maybe"', "level must be one of"),
        ("SYS-TEST-001", "sys-1", "must look like"),
        ("SYS-TEST-001", "SYS-OTHER-001", "name the file"),
        ('code = "0f05"', 'code = "0f0"', "code:"),
        ("[[step]]", "[[steps]]", "unknown field 'steps'"),
        ('expect = { kind = "syscall" }', "expects = 1", "unknown field 'expects'"),
        ('expect = { kind = "syscall" }', 'do = "dance"', "no step does 'dance'"),
        ('require = ["P-040"]', "require = 5", "list of strings"),
        ("map = [{", "map = [{ size = 1,", "unknown field 'size'"),
        ("tier = 1", "tier = ", "Invalid value"),
    ],
)
def test_mistakes_are_told(tmp_path: Path, old: str, new: str, text: str) -> None:
    assert old in GOOD
    with pytest.raises(CaseError, match=text):
        load(write(tmp_path, GOOD.replace(old, new)))


def test_no_steps(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="without steps"):
        load(write(tmp_path, GOOD.partition("[[step]]")[0]))
